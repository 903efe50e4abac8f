//! No file can make a reader panic: random bytes, and valid files with random damage; nor can a recipe's text or
//! `--set`. See docs/fuzzing.md.

use ghostbit::data::{Spec, cifar, idx, npy};
use ghostbit::methods::Recipe;
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
            assert!(set.labels.iter().all(|&l| (l as usize) < set.classes));
        }
    }
}

fn idx_file(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| out.extend(d.to_be_bytes()));
    out.extend(values);
    out
}

/// What parses can be written and read again, to the same text.
fn check_recipe(text: &str) {
    if let Ok(recipe) = Recipe::parse(text, "text") {
        let _ = recipe.validate();
        let written = recipe.to_toml();
        assert_eq!(Recipe::parse(&written, "written").unwrap().to_toml(), written);
    }
}

/// `key=value` from the words that recipes are made of, most of them wrong in one way or another.
fn assignment() -> impl Strategy<Value = String> {
    let words = vec![
        "seed",
        "wbits",
        "first_bits",
        "layer_bits",
        "batch",
        "iters",
        "warmup",
        "name",
        "generator",
        "latent",
        "lr",
        "beta1",
        "generator_loss",
        "bn_stats",
        "weight",
        "cross_entropy",
        "images",
        "count",
        "share",
        "loss",
        "from_generator",
        "ranges",
        "weights",
        "ema",
        "student",
        "schedule",
        "ste",
        "student_loss",
        "kl",
        "temperature",
        "",
        "x",
        "[",
        "\"",
    ];
    let values = vec![
        "0",
        "1",
        "-1",
        "4",
        "1e9",
        "1e-45",
        "1e300",
        "-0.0",
        "nan",
        "inf",
        "true",
        "search",
        "min_max",
        "\"lsq\"",
        "cosine",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615",
        "[]",
        "{}",
        "{ weight = 1 }",
        "[1, 2]",
        "1979-05-27",
        "'",
        "\"\"\"",
        "",
        "1 # a",
        "1\nseed = 2",
        "0x10",
        "\u{0}",
        "é",
    ];
    let key = vec(prop::sample::select(words), 1..4).prop_map(|w| w.join("."));
    let value = prop_oneof![4 => prop::sample::select(values).prop_map(String::from), 1 => ".{0,12}"];
    (key, value).prop_map(|(k, v)| format!("{k}={v}"))
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
    fn bytes_as_an_array(
        shape in vec(0usize..4, 0..4),
        packed in any::<bool>(),
        edits in edits(),
        keep in any::<prop::sample::Index>(),
        more in vec(any::<u8>(), 0..4),
    ) {
        let dims: String = shape.iter().map(|d| format!("{d},")).collect();
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
        let length = (header.len() as u16).to_le_bytes();
        let values = vec![0u8; 4 * shape.iter().product::<usize>()];
        let mut file = [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), &values].concat();
        if packed {
            // A zip archive of the one entry x.npy, stored.
            let size = (file.len() as u32).to_le_bytes();
            let entry = [&[0; 8][..], &size, &size, &[5, 0]].concat();
            let local = [&b"PK\x03\x04\x14\0\0\0\0\0"[..], &entry, &[0; 2], b"x.npy", &file].concat();
            let central = [&b"PK\x01\x02\x14\0\x14\0\0\0\0\0"[..], &entry, &[0; 16], b"x.npy"].concat();
            let ends = [central.len() as u32, local.len() as u32].map(u32::to_le_bytes).concat();
            file = [&local[..], &central, b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &ends, &[0; 2]].concat();
        }
        let whole = npy::parse(&file, "x").unwrap();
        assert_eq!(whole.shape, shape);
        if let Ok(array) = npy::parse(&damage(file, &edits, keep, &more), "x") {
            assert_eq!(array.shape.iter().product::<usize>(), array.values.len());
        }
    }

    #[test]
    fn text_as_a_data_set(text in ".{0,40}", kind in prop::sample::select(vec!["", "cifar10:", "idx:", "builtin:"])) {
        let _ = Spec::parse(&format!("{kind}{text}"));
    }

    #[test]
    fn text_as_a_recipe(text in "(?s).{0,120}", lines in vec(assignment(), 0..4), cut in any::<prop::sample::Index>()) {
        check_recipe(&text);
        // An embedded recipe with lines put in somewhere.
        for name in Recipe::names() {
            let whole = Recipe::load(name).unwrap().to_toml();
            let mut all: Vec<&str> = whole.lines().collect();
            let at = cut.index(all.len());
            all.splice(at..at, lines.iter().map(String::as_str));
            check_recipe(&all.join("\n"));
            check_recipe(&all[..at].join("\n"));
        }
    }

    #[test]
    fn assignments_to_a_recipe(
        lines in vec(prop_oneof![assignment(), "(?s).{0,40}", "[a-z_.]{0,20}=.{0,20}"], 0..6),
        name in prop::sample::select(Recipe::names()),
        seed: u64,
    ) {
        let mut recipe = Recipe::load(name).unwrap();
        // As `--seed` does, which takes what `--set` cannot write.
        recipe.seed = seed;
        for line in &lines {
            let before = recipe.clone();
            if recipe.set(line).is_err() {
                assert_eq!(format!("{recipe:?}"), format!("{before:?}"), "a refused assignment changed something");
            }
        }
        let _ = recipe.validate();
        check_recipe(&recipe.to_toml());
        assert_eq!(format!("{:?}", Recipe::parse(&recipe.to_toml(), "again").unwrap()), format!("{recipe:?}"));
    }

    #[test]
    fn values_of_a_recipe_survive_its_text(
        seed in 0..=i64::MAX as u64,
        wbits in 2..=8u8,
        lr in any::<f32>().prop_filter("finite", |v| v.is_finite()),
        share in 0f32..=1.0,
        batch in 2..1usize << 40,
    ) {
        let mut recipe = Recipe::load("best").unwrap();
        let lr = lr.abs();
        for line in [
            format!("seed={seed}"),
            format!("wbits={wbits}"),
            format!("student.lr={lr:?}"),
            format!("images.share={share}"),
            format!("batch = {batch}"),
        ] {
            recipe.set(&line).unwrap();
        }
        recipe.validate().unwrap();
        let again = Recipe::parse(&recipe.to_toml(), "again").unwrap();
        assert_eq!(again, recipe);
        let read = (again.seed, again.wbits, again.student.lr, again.images.unwrap().share, again.batch);
        assert_eq!(read, (seed, wbits, lr, share, batch));
    }
}
