//! No file can make a reader panic: random bytes, and valid files with random damage. See docs/fuzzing.md.

use ghostbit::data::{Spec, cifar, idx};
use ghostbit::tensor::io::{Checkpoint, HostTensor, RawTensor};
use proptest::collection::vec;
use proptest::prelude::*;

/// What may happen to a file on its way: some bytes overwritten, the end cut off or grown.
fn damage(file: Vec<u8>, edits: &[(prop::sample::Index, u8)], keep: prop::sample::Index, more: &[u8]) -> Vec<u8> {
    let mut file = file;
    for (at, byte) in edits {
        let i = at.index(file.len());
        file[i] = *byte;
    }
    file.truncate(keep.index(file.len()) + 1);
    file.extend(more);
    file
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
}

/// A parsed checkpoint keeps its promises.
fn check_checkpoint(c: &Checkpoint) {
    for t in c.tensors.values() {
        assert_eq!(t.shape.iter().product::<usize>(), t.values.len());
    }
    for t in c.bytes.values() {
        assert_eq!(t.shape.iter().product::<usize>() * t.dtype.size(), t.bytes.len());
    }
    let _ = c.validate("file");
    // Through bytes, because NaN is not equal to itself.
    let bytes = c.serialize().unwrap();
    assert_eq!(Checkpoint::parse(&bytes).unwrap().serialize().unwrap(), bytes);
}

fn check_cifar(data: &[u8]) {
    for kind in [cifar::Kind::Cifar10, cifar::Kind::Cifar100] {
        if let Ok(set) = cifar::parse(data, kind) {
            assert_eq!((set.images.len(), set.labels.len()), (set.n * 3072, set.n));
            assert!(set.labels.iter().all(|&l| usize::from(l) < set.classes));
        }
    }
}

fn idx_file(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| out.extend(d.to_be_bytes()));
    out.extend(values);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_as_a_checkpoint(header in vec(any::<u8>(), 0..200), claimed in any::<u64>(), honest: bool) {
        let claimed = if honest { header.len() as u64 } else { claimed };
        let file = [&claimed.to_le_bytes()[..], &header].concat();
        if let Ok(c) = Checkpoint::parse(&file) {
            check_checkpoint(&c);
        }
        let _ = Checkpoint::parse(&header);
    }

    #[test]
    fn header_json_with_any_numbers(
        dtype in prop::sample::select(vec!["F32", "F16", "BF16", "F64", "I64", "U8", "F8_E4M3", "F4", "BOOL", "?"]),
        shape in vec(prop_oneof![0..9u64, any::<u64>()], 0..5),
        start in prop_oneof![0..9u64, any::<u64>()],
        end in prop_oneof![0..99u64, any::<u64>()],
        data in vec(any::<u8>(), 0..99),
    ) {
        let json = format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#);
        let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat();
        if let Ok(c) = Checkpoint::parse(&file) {
            check_checkpoint(&c);
        }
    }

    #[test]
    fn damaged_checkpoints(
        names in prop::collection::btree_set("[a-z.0-9\"\\\\é]{1,8}", 1..5),
        values in vec(any::<f32>(), 0..9),
        edits in edits(),
        keep in any::<prop::sample::Index>(),
        more in vec(any::<u8>(), 0..9),
    ) {
        let mut c = Checkpoint::default();
        for name in &names {
            let tensor = HostTensor { shape: vec![values.len(), 1], values: values.clone() };
            c.tensors.insert(name.clone(), tensor);
            c.bytes.insert(format!("{name}/raw"), RawTensor::i32(&[1, 2]));
            c.metadata.insert(name.clone(), name.clone());
        }
        check_checkpoint(&c);
        if let Ok(c) = Checkpoint::parse(&damage(c.serialize().unwrap(), &edits, keep, &more)) {
            check_checkpoint(&c);
        }
    }

    #[test]
    fn bytes_as_cifar(records in 0..3usize, first in any::<u8>(), more in vec(any::<u8>(), 0..3)) {
        for record in [3073, 3074] {
            let mut data = vec![first; records * record];
            check_cifar(&data);
            data.extend(&more);
            check_cifar(&data);
        }
    }

    #[test]
    fn bytes_as_idx(
        dims in vec(prop_oneof![0..5u32, any::<u32>()], 0..6),
        values in vec(any::<u8>(), 0..64),
        edits in edits(),
        keep in any::<prop::sample::Index>(),
        whole: bool,
    ) {
        let mut file = idx_file(&dims, &values);
        if !whole {
            file = damage(file, &edits, keep, &[]);
        }
        if let Ok(a) = idx::parse(&file) {
            assert_eq!(a.dims.iter().product::<usize>(), a.values.len());
            let n = a.dims[0];
            if let Ok(set) = idx::join(a, idx::Idx { dims: vec![n], values: vec![3; n] }) {
                assert_eq!(set.images.len(), set.n * set.h * set.w * set.c);
                assert_eq!(set.labels.len(), set.n);
            }
        }
    }

    #[test]
    fn text_as_a_data_set(text in ".{0,40}", kind in prop::sample::select(vec!["", "cifar10:", "idx:", "builtin:"])) {
        let _ = Spec::parse(&format!("{kind}{text}"));
    }
}
