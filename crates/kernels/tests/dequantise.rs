//! Dequantised values against those of the `gguf` Python package (`fixtures/make_blocks.py`).

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests; it does not see that helpers are part of them

use foretoken_kernels::{Compute, GgmlType, Isa, PackedMatrix, quant};

/// A type's blocks and their values.
fn fixture() -> Vec<(GgmlType, Vec<u8>, Vec<f32>)> {
    let mut rest: &[u8] = include_bytes!("fixtures/blocks.bin");
    let mut cases = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap();
        let line = std::str::from_utf8(&rest[..end]).unwrap();
        let [name, blocks, elements] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let ty = GgmlType::all().find(|ty| ty.name() == name).unwrap();
        let (bytes, values) = rest[end + 1..].split_at(blocks.parse::<usize>().unwrap() * ty.block_bytes());
        let (values, next) = values.split_at(elements.parse::<usize>().unwrap() * 4);
        let values = values.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        cases.push((ty, bytes.to_vec(), values));
        rest = next;
    }
    cases
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn fixture_has_every_type_but_f32() {
    let mut names: Vec<_> = fixture().iter().map(|case| case.0.name()).collect();
    let mut all: Vec<_> = GgmlType::all().map(GgmlType::name).filter(|&name| name != "F32").collect();
    names.sort_unstable();
    all.sort_unstable();
    assert_eq!(names, all);
}

#[test]
fn values_are_those_of_the_gguf_package() {
    for (ty, bytes, expected) in fixture() {
        let mut values = vec![0.0; expected.len()];
        quant::dequantize(ty, &bytes, &mut values);
        assert_eq!(bits(&values), bits(&expected), "{ty}");
    }
}

#[test]
fn rows_of_a_packed_matrix_keep_their_values() {
    let compute = Compute::new(Isa::detect(), 2).unwrap();
    for (ty, bytes, expected) in fixture() {
        // Every block is a row, then 19 copies of the first block's row, so that groups are full and partial.
        let copies = bytes[..ty.block_bytes()].repeat(19);
        let bytes = [bytes, copies].concat();
        let (rows, cols) = (bytes.len() / ty.block_bytes(), ty.block_len());
        let packed = PackedMatrix::pack(&compute, ty, rows, cols, &bytes).unwrap();
        let mut values = vec![0.0; cols];
        for row in 0..rows {
            packed.row(row, &mut values);
            let first = if row < expected.len() / cols { row * cols } else { 0 };
            assert_eq!(bits(&values), bits(&expected[first..first + cols]), "{ty} row {row}");
        }
    }
}
