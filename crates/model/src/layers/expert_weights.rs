//! The weights of a layer's experts: all in memory, or as many as a budget allows and the others in the mapped file.
//!
//! An expert's matrices come and go together. Those in memory have slots, of which the least recently used is replaced.
//! The invariant: a matrix is packed from the same bytes whenever it is packed, so it makes no difference to a result
//! which experts were in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foretoken_kernels::{Compute, ExpertJob, GgmlType, PackedMatrix};

use crate::config::ModelError;
use crate::gguf::Gguf;
use crate::weights::Loader;

/// The three matrices of an expert.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Gate,
    Up,
    Down,
}

const PARTS: [Part; 3] = [Part::Gate, Part::Up, Part::Down];

/// The matrices of all experts for one part.
struct Tensor {
    name: String,
    /// Rows that the tensor has for each expert, and those of the part among them: gate and up may be in one tensor.
    rows_per_expert: usize,
    first_row: usize,
    rows: usize,
    cols: usize,
    /// `[expert][rows]`.
    bias: Option<Vec<f32>>,
}

impl Tensor {
    /// `size`: rows and columns of an expert's matrix, of `count` experts.
    fn load(
        loader: &Loader<'_>,
        name: &str,
        (rows, cols): (usize, usize),
        count: usize,
    ) -> Result<Tensor, ModelError> {
        let bias = loader.optional_table(&format!("{name}.bias"), count, rows)?;
        let name = format!("{name}.weight");
        loader.check(&name, &[cols, rows, count])?;
        Ok(Tensor { name, rows_per_expert: rows, first_row: 0, rows, cols, bias })
    }

    /// Gate and up from a tensor that has an expert's gate above its up.
    fn load_gate_and_up(
        loader: &Loader<'_>,
        name: String,
        (rows, cols): (usize, usize),
        count: usize,
    ) -> Result<[Tensor; 2], ModelError> {
        loader.check(&name, &[cols, 2 * rows, count])?;
        Ok([0, rows].map(|first_row| Tensor {
            name: name.clone(),
            rows_per_expert: 2 * rows,
            first_row,
            rows,
            cols,
            bias: None,
        }))
    }
}

pub(super) struct ExpertWeights {
    gguf: Arc<Gguf>,
    tensors: [Tensor; 3],
    count: usize,
    /// Slots, at most.
    slots_max: usize,
    expert_bytes: usize,
    is_float: bool,
    resident: Mutex<Resident>,
}

/// The experts in memory.
pub(super) struct Resident {
    /// By part, the matrix in each slot, and its bias.
    matrices: [Vec<PackedMatrix>; 3],
    bias: [Vec<f32>; 3],
    slot_of: Vec<Option<u32>>,
    expert_in: Vec<u32>,
    /// When each slot was last used.
    used_at: Vec<u64>,
    uses: u64,
}

impl ExpertWeights {
    /// The experts of a layer, from `columns` numbers over `width` to `columns` again; `used` are needed for a row.
    pub(super) fn load(
        loader: &Loader<'_>,
        layer: usize,
        (columns, width): (usize, usize),
        (count, used): (usize, usize),
    ) -> Result<ExpertWeights, ModelError> {
        let name = |suffix: &str| format!("blk.{layer}.{suffix}");
        let (tensor, inward) =
            (|suffix, size| Tensor::load(loader, &name(suffix), size, count), (width, columns));
        let fused = name("ffn_gate_up_exps.weight");
        let [gate, up] = match loader.has(&fused) {
            true => Tensor::load_gate_and_up(loader, fused, inward, count)?,
            false => [tensor("ffn_gate_exps", inward)?, tensor("ffn_up_exps", inward)?],
        };
        let tensors = [gate, up, tensor("ffn_down_exps", (columns, width))?];
        let mut weights = ExpertWeights {
            gguf: Arc::clone(loader.gguf()),
            tensors,
            count,
            slots_max: count,
            expert_bytes: 0,
            is_float: false,
            resident: Mutex::new(Resident::new(count)),
        };
        weights.resident().add(&weights, loader)?;
        (weights.expert_bytes, weights.is_float) = {
            let resident = weights.resident();
            let first = || resident.matrices.iter().map(|all| &all[0]);
            (first().map(PackedMatrix::bytes).sum(), first().any(PackedMatrix::is_float))
        };
        if let Some(bytes) = loader.expert_bytes_per_layer() {
            weights.slots_max = (bytes / weights.expert_bytes).clamp(used.min(count), count);
        }
        for _ in 1..weights.slots_max {
            weights.resident().add(&weights, loader)?;
        }
        Ok(weights)
    }

    /// Bytes of one expert in memory.
    pub(super) fn expert_bytes(&self) -> usize {
        self.expert_bytes
    }

    pub(super) fn is_float(&self) -> bool {
        self.is_float
    }

    /// Experts that can be in memory at once.
    pub(super) fn slots_max(&self) -> usize {
        self.slots_max
    }

    /// Takes `experts` into memory, at most [`ExpertWeights::slots_max`], and returns them with the slots they are in.
    pub(super) fn fetch(
        &self,
        c: &Compute,
        experts: &[u32],
        slots: &mut Vec<u32>,
    ) -> MutexGuard<'_, Resident> {
        let mut resident = self.resident();
        resident.uses += 1;
        let missing: Vec<u32> =
            experts.iter().copied().filter(|&expert| resident.touch(expert).is_none()).collect();
        for &expert in &missing {
            PARTS.iter().for_each(|&part| self.read_ahead(part, expert));
        }
        for &expert in &missing {
            resident.replace(self, c, expert);
        }
        slots.clear();
        slots.extend(experts.iter().filter_map(|&expert| resident.slot_of[expert as usize]));
        resident
    }

    fn resident(&self) -> MutexGuard<'_, Resident> {
        self.resident.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self, part: Part, expert: u32) -> (&Tensor, std::ops::Range<usize>) {
        let tensor = &self.tensors[part as usize];
        let info = self.gguf.tensor(&tensor.name).expect("found when the model was loaded");
        let row_bytes = info.byte_len() / (self.count * tensor.rows_per_expert);
        let first = expert as usize * tensor.rows_per_expert + tensor.first_row;
        (tensor, first * row_bytes..(first + tensor.rows) * row_bytes)
    }

    fn read_ahead(&self, part: Part, expert: u32) {
        let (tensor, range) = self.bytes(part, expert);
        if let Some(info) = self.gguf.tensor(&tensor.name) {
            self.gguf.read_ahead(info, range);
        }
    }

    /// Calls `pack` with a matrix of an expert in the file, which need not stay in the page cache after that.
    fn with_bytes<T>(&self, part: Part, expert: u32, pack: impl FnOnce(&Tensor, GgmlType, &[u8]) -> T) -> T {
        let (tensor, range) = self.bytes(part, expert);
        let info = self.gguf.tensor(&tensor.name).expect("found when the model was loaded");
        let packed = pack(tensor, info.ty, &self.gguf.bytes(info)[range.clone()]);
        self.gguf.release_part(info, range);
        packed
    }
}

impl Resident {
    fn new(count: usize) -> Resident {
        Resident {
            matrices: std::array::from_fn(|_| Vec::new()),
            bias: std::array::from_fn(|_| Vec::new()),
            slot_of: vec![None; count],
            expert_in: Vec::new(),
            used_at: Vec::new(),
            uses: 0,
        }
    }

    /// The slot of an expert in memory, which counts as used.
    fn touch(&mut self, expert: u32) -> Option<u32> {
        let slot = self.slot_of[expert as usize]?;
        self.used_at[slot as usize] = self.uses;
        Some(slot)
    }

    /// Packs the next expert into a new slot.
    fn add(&mut self, weights: &ExpertWeights, loader: &Loader<'_>) -> Result<(), ModelError> {
        let slot = self.expert_in.len();
        let expert = slot as u32;
        for part in PARTS {
            let packed = weights.with_bytes(part, expert, |tensor, ty, bytes| {
                loader.pack(&tensor.name, ty, tensor.rows, tensor.cols, bytes)
            })?;
            self.matrices[part as usize].push(packed);
        }
        self.expert_in.push(expert);
        self.used_at.push(self.uses);
        self.set(weights, slot, expert);
        Ok(())
    }

    /// Packs an expert that is not in memory into the slot of the least recently used one.
    fn replace(&mut self, weights: &ExpertWeights, c: &Compute, expert: u32) {
        let slot = (0..self.used_at.len()).min_by_key(|&slot| self.used_at[slot]).unwrap_or(0);
        let before = std::mem::replace(&mut self.expert_in[slot], expert);
        self.slot_of[before as usize] = None;
        self.used_at[slot] = self.uses;
        for part in PARTS {
            let matrix = &mut self.matrices[part as usize][slot];
            weights
                .with_bytes(part, expert, |_, _, bytes| matrix.repack(c, bytes))
                .expect("experts of one tensor have as many bytes each");
        }
        self.set(weights, slot, expert);
    }

    /// Records which expert is in a slot.
    fn set(&mut self, weights: &ExpertWeights, slot: usize, expert: u32) {
        self.slot_of[expert as usize] = Some(slot as u32);
        for (tensor, table) in weights.tensors.iter().zip(&mut self.bias) {
            if let Some(bias) = &tensor.bias {
                table.resize(table.len().max((slot + 1) * tensor.rows), 0.0);
                let row = &bias[expert as usize * tensor.rows..][..tensor.rows];
                table[slot * tensor.rows..][..tensor.rows].copy_from_slice(row);
            }
        }
    }

    /// A product with the matrices in the slots.
    pub(super) fn job<'a>(&'a self, part: Part, out: &'a mut [f32]) -> ExpertJob<'a> {
        let bias = &self.bias[part as usize];
        ExpertJob { weights: &self.matrices[part as usize], bias: (!bias.is_empty()).then_some(bias), out }
    }
}
