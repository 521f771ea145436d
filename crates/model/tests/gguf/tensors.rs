//! Tensors: shapes, offsets, data, release and identity.

use foretoken_kernels::quant::GgmlType;
use foretoken_model::gguf::Gguf;
use foretoken_model::gguf::writer::GgufWriter;

use crate::hostile::valid;

#[test]
fn tensors_keep_shape_type_and_data() {
    let gguf = Gguf::from_bytes("m", valid()).unwrap();
    let names: Vec<_> = gguf.tensors().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["first", "half", "quantised"]);
    let tensor = gguf.tensor("quantised").unwrap();
    assert_eq!((tensor.dims(), tensor.cols(), tensor.rows()), (&[64, 2][..], 64, 2));
    assert_eq!((tensor.ty, tensor.elements(), tensor.byte_len()), (GgmlType::Q4_0, 128, 72));
    assert_eq!(gguf.bytes(tensor), (0..72).collect::<Vec<u8>>());
    assert!(gguf.tensor("absent").is_none());
}

#[test]
fn the_alignment_of_the_file_is_followed() {
    let writer = GgufWriter::new().alignment(256).tensor_f32("a", &[1], &[1.0]).tensor_f32("b", &[1], &[2.0]);
    let gguf = Gguf::from_bytes("m", writer.finish()).unwrap();
    let places: Vec<_> = gguf.tensors().map(|t| t.file_offset()).collect();
    assert_eq!((gguf.alignment(), places), (256, vec![256, 512]));
    assert_eq!(gguf.bytes(gguf.tensor("b").unwrap()), 2.0f32.to_le_bytes());
}

#[test]
fn tensors_may_lie_in_any_order_with_gaps() {
    let bytes = GgufWriter::new()
        .tensor_at("late", &[8], 0, 64, vec![1; 32])
        .tensor_at("early", &[8], 0, 0, vec![2; 64])
        .finish();
    let gguf = Gguf::from_bytes("m", bytes).unwrap();
    assert!(gguf.tensor("early").unwrap().file_offset() < gguf.tensor("late").unwrap().file_offset());
}

#[test]
fn released_tensors_read_the_same_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    std::fs::write(file.path(), GgufWriter::new().tensor("t", &[1 << 18], 0, data.clone()).finish()).unwrap();
    let gguf = Gguf::open(file.path()).unwrap();
    let tensor = gguf.tensor("t").unwrap();
    assert_eq!(gguf.bytes(tensor), data);
    gguf.release(tensor);
    assert_eq!(gguf.bytes(tensor), data);
}

/// Kilobytes of file-backed pages of this process that are in memory.
#[cfg(target_os = "linux")]
fn resident_file_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssFile:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn release_frees_the_memory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let data = vec![3u8; 64 << 20];
    std::fs::write(file.path(), GgufWriter::new().tensor("t", &[16 << 20], 0, data).finish()).unwrap();
    let gguf = Gguf::open(file.path()).unwrap();
    let tensor = gguf.tensor("t").unwrap();
    let sum: u64 = gguf.bytes(tensor).iter().map(|&b| u64::from(b)).sum();
    assert_eq!(sum, 3 * (64 << 20));
    let before = resident_file_kb();
    gguf.release(tensor);
    let freed_kb = before.saturating_sub(resident_file_kb());
    assert!(freed_kb > 60 << 10, "only {freed_kb} kB of 65,536 were given back");
}

fn model(meta: u32, values: &[f32]) -> Gguf {
    let writer = GgufWriter::new().meta("k", meta).tensor_f32("t", &[values.len() as u64], values);
    Gguf::from_bytes("m", writer.finish()).unwrap()
}

#[test]
fn identity_depends_on_metadata_and_on_weights() {
    let (base, meta, weights) = (model(1, &[1.0, 2.0]), model(2, &[1.0, 2.0]), model(1, &[1.0, 3.0]));
    for other in [&meta, &weights] {
        assert_ne!(base.fingerprint(), other.fingerprint());
    }
    assert_eq!(base.fingerprint(), model(1, &[1.0, 2.0]).fingerprint());
}

#[test]
fn any_byte_of_any_tensor_changes_the_identity() {
    let bytes = |change: Option<usize>| {
        let values: Vec<f32> = (0..1_000).map(|i| i as f32).collect();
        let writer = GgufWriter::new().meta("k", 1u32);
        let writer = writer.tensor_f32("a", &[1_000], &values).tensor_f32("b", &[1_000], &values);
        let mut file = writer.finish();
        let data = file.len() - 8_000;
        change.into_iter().for_each(|at| file[data + at] ^= 1);
        Gguf::from_bytes("m", file).unwrap().fingerprint()
    };
    let base = bytes(None);
    assert_eq!(base, bytes(None));
    for at in (0..8_000).step_by(97).chain([3_999, 4_000, 7_999]) {
        assert_ne!(base, bytes(Some(at)), "byte {at}");
    }
}

#[test]
fn threads_do_not_change_the_identity() {
    assert_eq!(model(1, &[1.0, 2.0]).hash_on(3), model(1, &[1.0, 2.0]).hash_on(1));
}
