//! Readers, the built-in set, checkpoints and logs: what they accept, what they refuse, what they leave on the disk.

use ghostbit::data::{Dataset, Normalization, Spec, cifar, idx, procedural};
use ghostbit::device::Device;
use ghostbit::tensor::io::{Checkpoint, HostTensor, RawTensor, replace_file};
use ghostbit::train::log::{MetricsLog, write_json};
use procedural::Split;
use std::io::Write;

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn builtin_set_is_reproducible() {
    let (a, b) = (procedural::generate(Split::Test, 40), procedural::generate(Split::Test, 20));
    assert_eq!(a.images[..b.images.len()], b.images[..], "an image depends on how many are made");
    assert_eq!(a.labels[..20], b.labels[..]);
    let train = procedural::generate(Split::Train, 20);
    assert!((0..20).all(|i| !a.images.chunks(3072).any(|x| x == &train.images[i * 3072..(i + 1) * 3072])));
    assert_eq!((fnv(&a.images), fnv(&train.images)), (TEST_HASH, TRAIN_HASH), "the built-in set has changed");
}
const TEST_HASH: u64 = 15485235377417425043;
const TRAIN_HASH: u64 = 2384092750264958360;

/// Softmax regression on pixels, plain gradient descent: the share of `test` it gets right.
fn linear_accuracy(train: &Dataset, test: &Dataset, features: impl Fn(&[u8]) -> Vec<f32>) -> f32 {
    let size = train.h * train.w * train.c;
    let rows = |s: &Dataset| s.images.chunks(size).map(&features).collect::<Vec<_>>();
    let (x, x_test) = (rows(train), rows(test));
    let d = x[0].len();
    let mut w = vec![0.0f32; 10 * (d + 1)];
    let scores = |w: &[f32], x: &[f32]| -> Vec<f32> {
        w.chunks(d + 1).map(|w| w[d] + w.iter().zip(x).map(|(a, b)| a * b).sum::<f32>()).collect()
    };
    for epoch in 0..30 {
        let rate = 3.0 / d as f32 * (1.0 - epoch as f32 / 30.0);
        for (x, &label) in x.iter().zip(&train.labels) {
            let s = scores(&w, x);
            let max = s.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f32> = s.iter().map(|v| (v - max).exp()).collect();
            let total: f32 = e.iter().sum();
            for (k, w) in w.chunks_mut(d + 1).enumerate() {
                let g = rate * (e[k] / total - f32::from(u8::from(k == label as usize)));
                w.iter_mut().zip(x).for_each(|(w, x)| *w -= g * x);
                w[d] -= g;
            }
        }
    }
    let hit = x_test.iter().zip(&test.labels).filter(|(x, label)| {
        let s = scores(&w, x);
        let best = (0..10).max_by(|&a, &b| s[a].total_cmp(&s[b])).unwrap();
        best == **label as usize
    });
    hit.count() as f32 / test.n as f32
}

#[test]
fn builtin_set_defeats_linear_classifiers() {
    let (train, test) = (procedural::generate(Split::Train, 2000), procedural::generate(Split::Test, 1000));
    let pixels = linear_accuracy(&train, &test, |i| i.iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect());
    assert!(pixels < 0.45, "a linear classifier of the pixels gets {pixels}");
    let colour = linear_accuracy(&train, &test, |i| {
        let mut moments = vec![0.0; 6];
        for p in i.chunks(3) {
            for c in 0..3 {
                let v = f32::from(p[c]) / 127.5 - 1.0;
                moments[c] += v / 1024.0;
                moments[3 + c] += v * v / 1024.0;
            }
        }
        moments
    });
    assert!(colour < 0.25, "the colour statistics give the class away: {colour}");
    println!("linear on pixels {pixels:.3}, on colour moments {colour:.3}");
}

#[test]
fn cifar_records_become_nhwc() {
    let mut data = vec![7u8];
    data.extend((0..3072).map(|i| (i / 1024 * 100 + i % 1024 % 50) as u8));
    let set = cifar::parse(&data, cifar::Kind::Cifar10).unwrap();
    assert_eq!((set.n, set.h, set.w, set.c, set.classes, set.labels[0]), (1, 32, 32, 3, 10, 7));
    assert_eq!(set.images[..6], [0, 100, 200, 1, 101, 201]);
    let fine: Vec<u8> = [&[3u8, 99][..], &data[1..]].concat();
    assert_eq!(cifar::parse(&fine, cifar::Kind::Cifar100).unwrap().labels, [99]);

    let fail = |d: &[u8]| cifar::parse(d, cifar::Kind::Cifar10).unwrap_err();
    assert!(fail(&[]).contains("empty"));
    let short = fail(&data[..3000]);
    assert!(short.contains("3000") && short.contains("3073"), "{short}");
    data[0] = 10;
    assert!(fail(&data).contains("label 10"));
}

#[test]
fn files_are_read_packed_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = vec![1u8];
    data.resize(3073, 9);
    let (plain, packed) = (dir.path().join("a.bin"), dir.path().join("a.bin.gz"));
    std::fs::write(&plain, &data).unwrap();
    let mut gz = flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    gz.write_all(&data).unwrap();
    gz.finish().unwrap();
    let open = |p: &std::path::Path| Dataset::open(&format!("cifar10:{}", p.display()));
    assert_eq!(open(&plain).unwrap().images, open(&packed).unwrap().images);
    std::fs::write(&packed, &data).unwrap();
    let e = open(&packed).unwrap_err().to_string();
    assert!(e.contains("a.bin.gz"), "{e}");
    let e = open(&dir.path().join("none")).unwrap_err().to_string();
    assert!(e.contains("none") && e.contains("cannot be read"), "{e}");
}

fn idx_file(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| out.extend(d.to_be_bytes()));
    out.extend(values);
    out
}

#[test]
fn idx_files_are_checked() {
    let images = idx::parse(&idx_file(&[2, 2, 3], &[1; 12])).unwrap();
    let set = idx::join(images.clone(), idx::parse(&idx_file(&[2], &[4, 11])).unwrap()).unwrap();
    assert_eq!((set.n, set.h, set.w, set.c, set.classes), (2, 2, 3, 1, 12));
    assert!(set.fits(12) && set.fits(1000) && !set.fits(11));
    assert!(idx::join(images.clone(), images).is_err());
    for (bad, word) in [
        (vec![0, 0, 8], "header"),
        (vec![1, 0, 8, 1, 0, 0, 0, 0], "no idx file"),
        (vec![0, 0, 13, 1, 0, 0, 0, 0], "0x0d"),
        (vec![0, 0, 8, 9], "9 dimensions"),
        (idx_file(&[2, 2], &[0; 3]), "need 4 bytes"),
        (idx_file(&[u32::MAX; 4], &[0; 3]), "counted"),
    ] {
        let e = idx::parse(&bad).unwrap_err();
        assert!(e.contains(word), "{e}");
    }
}

#[test]
fn specs_say_what_is_wrong() {
    assert_eq!(Spec::parse("builtin:test").unwrap(), Spec::Builtin(Split::Test));
    assert_eq!(Spec::parse("idx:a,b").unwrap(), Spec::Idx("a".into(), "b".into()));
    assert_eq!(Spec::parse("cifar10:a:b").unwrap(), Spec::Cifar(cifar::Kind::Cifar10, "a:b".into()));
    for bad in ["", "cifar10", "cifar10:", "idx:a", "idx:a,", "builtin:x", "png:a"] {
        let e = Spec::parse(bad).unwrap_err().to_string();
        assert!(e.contains("--data") && e.contains("builtin:test"), "{e}");
    }
}

#[test]
fn batches_are_normalized() {
    let set = procedural::generate(Split::Test, 4);
    let (x, y) = set.batch(&Device::cpu(), 1..4, &Normalization::CIFAR).unwrap();
    assert_eq!(&*x.shape(), &[3, 32, 32, 3][..]);
    assert_eq!(y.to_vec::<i32>().unwrap(), [1, 2, 3]);
    let x = x.to_vec::<f32>().unwrap();
    for i in 0..x.len() {
        let byte = set.images[3072 + i];
        let want = (f32::from(byte) / 255.0 - Normalization::CIFAR.mean[i % 3]) / Normalization::CIFAR.std[i % 3];
        assert!((x[i] - want).abs() < 1e-6);
        assert_eq!(Normalization::CIFAR.inverse(x[i], i % 3), byte);
    }
    assert!(set.batch(&Device::cpu(), 2..5, &Normalization::CIFAR).is_err());
    assert!(set.batch(&Device::cpu(), 2..2, &Normalization::CIFAR).is_err());
}

fn sample() -> Checkpoint {
    let mut c = Checkpoint::default();
    c.tensors
        .insert("a.weight".into(), HostTensor { shape: vec![2, 3], values: vec![1.0, -2.0, 0.5, 0.0, 3.0, 1e-40] });
    c.tensors.insert("s".into(), HostTensor { shape: vec![], values: vec![4.0] });
    c.tensors.insert("e".into(), HostTensor { shape: vec![0], values: vec![] });
    c.bytes.insert("rng".into(), RawTensor::u64(&[1, u64::MAX]));
    c.bytes.insert("codes".into(), RawTensor::u8(&[1, 2, 3]));
    c.metadata.insert("producer".into(), "ghostbit \"test\"".into());
    c
}

#[test]
fn checkpoints_return_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    sample().save(&path).unwrap();
    let first = std::fs::read(&path).unwrap();
    let back = Checkpoint::load(&path).unwrap();
    assert_eq!(back, sample());
    back.save(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first, "equal checkpoints, equal files");
    assert_eq!(back.bytes["rng"].to_u64().unwrap(), [1, u64::MAX]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn float_types_are_converted() {
    let header = r#"{"h":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]},"d":{"dtype":"F64","shape":[1],"data_offsets":[4,12]},"n":{"dtype":"I64","shape":[],"data_offsets":[12,20]}}"#;
    let data = [
        &half::f16::from_f32(1.5).to_le_bytes()[..],
        &half::bf16::from_f32(-2.0).to_le_bytes(),
        &0.25f64.to_le_bytes(),
        &7i64.to_le_bytes(),
    ]
    .concat();
    let c = Checkpoint::parse(&file(header, &data)).unwrap();
    assert_eq!((c.tensors["h"].values[0], c.tensors["b"].values[0], c.tensors["d"].values[0]), (1.5, -2.0, 0.25));
    assert_eq!(c.bytes["n"].bytes[0], 7);
}

#[test]
fn hostile_checkpoints_are_refused() {
    let t =
        |shape: &str, offsets: &str| format!(r#"{{"t":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
    let cases = [
        (vec![1, 2, 3], "8-byte"),
        ([u64::MAX.to_le_bytes().to_vec(), vec![b'{']].concat(), "claims"),
        (file("{", &[]), "header"),
        (file("[]", &[]), "an object of tensors"),
        (file(&t("[2]", "[0,8]"), &[0; 4]), "header"),
        (file(&t("[2]", "[0,4]"), &[0; 4]), "header"),
        (file(&t("[2]", "[8,0]"), &[0; 8]), "header"),
        (file(&t("[2]", "[4,12]"), &[0; 12]), "header"),
        (file(&t("[4294967296,4294967296,4294967296]", "[0,4]"), &[0; 4]), "header"),
        (file(&t("[-1]", "[0,4]"), &[0; 4]), "header"),
        (file(r#"{"t":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]), "header"),
        (file(r#"{"t":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#, &[0; 1]), "BOOL"),
        (
            file(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                &[0; 12],
            ),
            "header",
        ),
        (
            file(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                &[0; 4],
            ),
            "appears twice",
        ),
    ];
    for (data, word) in cases {
        let e = Checkpoint::parse(&data).unwrap_err();
        assert!(e.contains(word) && !e.is_empty(), "wanted '{word}': {e}");
    }
}

#[test]
fn senseless_weights_are_refused() {
    let mut c = sample();
    c.validate("x").unwrap();
    c.tensors.get_mut("a.weight").unwrap().values[4] = f32::NAN;
    let e = c.validate("dir/file").unwrap_err().to_string();
    assert!(e.contains("dir/file") && e.contains("a.weight") && e.contains("element 4"), "{e}");
    let mut c = Checkpoint::default();
    c.tensors.insert("bn1.running_var".into(), HostTensor { shape: vec![2], values: vec![1.0, -0.5] });
    let e = c.validate("x").unwrap_err().to_string();
    assert!(e.contains("bn1.running_var") && e.contains("element 1") && e.contains("negative"), "{e}");
    c.tensors.insert("mean".into(), HostTensor { shape: vec![3], values: vec![0.0] });
    assert!(c.serialize().unwrap_err().contains("mean"));
}

#[test]
fn failed_writes_leave_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let e = sample().save(dir.path().join("missing/c.safetensors")).unwrap_err().to_string();
    assert!(e.contains("missing") && e.contains("create the directory"), "{e}");
    let target = dir.path().join("taken");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("inside"), b"x").unwrap();
    assert!(replace_file(&target, b"new").is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    #[cfg(target_os = "linux")]
    if std::path::Path::new("/dev/full").exists() {
        let mut log = MetricsLog::create("/dev/full").unwrap();
        assert!(log.write(&1).unwrap_err().to_string().contains("/dev/full"));
    }
}

#[test]
fn logs_continue_where_a_run_stopped() {
    #[derive(serde::Serialize)]
    struct Line {
        step: u64,
        loss: f32,
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut log = MetricsLog::create(&path).unwrap();
    (0..5).for_each(|step| log.write(&Line { step, loss: f32::NAN }).unwrap());
    drop(log);
    let mut torn = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    torn.write_all(b"{\"step\":5,\"lo").unwrap();
    let mut log = MetricsLog::resume(&path, 2, true).unwrap();
    log.write(&Line { step: 3, loss: 1.0 }).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 4);
    assert!(text.ends_with("{\"step\":3,\"loss\":1.0}\n"), "{text}");
    write_json(dir.path().join("r.json"), &serde_json::json!({"a": 1})).unwrap();
    assert!(std::fs::read_to_string(dir.path().join("r.json")).unwrap().contains("\"a\": 1"));
}
