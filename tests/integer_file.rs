//! Integer files: round trips, hostile files, and that Python reads them as `docs/format.md` says.

mod networks;

use ghostbit::data::Normalization;
use ghostbit::deploy::{Engine, INTEGER_KEY, IntegerNetwork, lower};
use ghostbit::graph::passes::QuantizeSpec;
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::tensor::Tensor;
use ghostbit::tensor::io::{Checkpoint, RawTensor};
use networks::{calibrated, images, two_layers, with_depthwise, with_downsampling};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

static SMALL: LazyLock<IntegerNetwork> = LazyLock::new(|| {
    let network = calibrated(&with_downsampling(), QuantizeSpec { first_bits: Some(8), ..QuantizeSpec::new(3, 4) }, 1);
    lower(&network, Normalization::CIFAR).unwrap()
});

fn bytes(n: &IntegerNetwork) -> Vec<u8> {
    n.to_checkpoint().unwrap().serialize().unwrap()
}

/// What parses is a network that runs, and is written as it was read. Large ones are only read.
fn check(data: &[u8]) {
    let Ok(network) = IntegerNetwork::parse(data) else { return };
    assert_eq!(IntegerNetwork::parse(&bytes(&network)).unwrap(), network);
    let values = network.values().unwrap();
    let work: usize = values.iter().map(|v| v.shape.iter().product::<usize>()).sum();
    if work < 1 << 18 {
        let shape: Vec<usize> = [&[1], network.input()].concat();
        let x = vec![0.5f32; shape.iter().product()];
        let x = Tensor::from_slice(&ghostbit::device::Device::cpu(), &shape[..], &x).unwrap();
        Engine::new(network).unwrap().logits(&x).unwrap();
    }
}

#[test]
fn round_trips_keep_every_bit() {
    for (w, a) in [(2, 8), (3, 3), (4, 4), (5, 2), (8, 8)] {
        for graph in [with_downsampling(), with_depthwise(), two_layers(), cifar_resnet(1, 10)] {
            let network = lower(&calibrated(&graph, QuantizeSpec::new(w, a), 2), Normalization::HALF).unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            network.save(file.path()).unwrap();
            let again = IntegerNetwork::load(file.path()).unwrap();
            assert_eq!(again, network);
            let x = images(2, &graph, 9);
            let logits = |n| Engine::new(n).unwrap().logits(&x).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(logits(again), logits(network));
        }
    }
}

/// The header of `SMALL` after `change`.
fn with_header(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut file = SMALL.to_checkpoint().unwrap();
    let mut header: Value = serde_json::from_str(&file.metadata[INTEGER_KEY]).unwrap();
    change(&mut header);
    file.metadata.insert(INTEGER_KEY.into(), header.to_string());
    file.serialize().unwrap()
}

#[test]
fn hostile_files_are_refused_with_reasons() {
    let message = |data: &[u8]| IntegerNetwork::parse(data).expect_err("an error");
    let whole = bytes(&SMALL);
    for keep in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        message(&whole[..keep]);
    }
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 16] = [
        ("format version 1; this program reads 2; write it again", |h| *h = json!({"version": 1, "nodes": []})),
        ("format version 3", |h| h["version"] = json!(3)),
        ("does not come before it", |h| h["nodes"][1]["inputs"] = json!([5])),
        ("does not come before it", |h| h["nodes"][3]["inputs"] = json!([3])),
        ("unknown variant", |h| h["nodes"][1]["op"] = json!("softmax")),
        ("expected U8", |h| h["weights"]["body.weight"]["shape"] = json!([1_000_000, 1_000_000, 1_000, 1])),
        ("too many", |h| h["weights"]["body.weight"]["shape"] = json!([u64::MAX, 7, 7, 7])),
        ("weight of 3 bits for a layer of 4", |h| h["nodes"][4]["quant"]["bits"] = json!(4)),
        ("no quantizer", |h| h["nodes"][1]["quant"] = Value::Null),
        ("invalid type", |h| h["nodes"][1]["params"]["stride"] = json!(2)),
        ("larger than 65536", |h| h["nodes"][1]["params"]["stride"] = json!([1u64 << 62, 1])),
        ("more than", |h| h["input"] = json!([60_000, 60_000, 3])),
        ("more than", |h| h["input"] = json!([1u64 << 40, 8, 3])),
        ("expected 1000 logits", |h| h["classes"] = json!(1000)),
        ("has this name", |h| h["nodes"][0]["name"] = json!("stem")),
        ("belongs to no node", |h| {
            h["nodes"].as_array_mut().unwrap().last_mut().unwrap()["bias"] = Value::Null;
        }),
    ];
    for (words, change) in changes {
        let e = message(&with_header(change));
        assert!(e.contains(words), "expected '{words}' in: {e}");
    }
    let with = |change: fn(&mut Checkpoint)| {
        let mut file = SMALL.to_checkpoint().unwrap();
        change(&mut file);
        message(&file.serialize().unwrap())
    };
    let e = with(|f| f.tensors.get_mut("body.weight.scale").unwrap().values[2] = f32::NAN);
    assert!(e.contains("scale NaN"), "{e}");
    let e = with(|f| f.tensors.get_mut("stem.relu.quant.scale").unwrap().values[0] = -1.0);
    assert!(e.contains("scale -1"), "{e}");
    let e = with(|f| drop(f.bytes.insert("stem.relu.quant.zero".into(), RawTensor::i32(&[i32::MIN]))));
    assert!(e.contains("zero point -2147483648"), "{e}");
    let e = with(|f| drop(f.bytes.remove("body.weight")));
    assert!(e.contains("body.weight is missing"), "{e}");
    let e = with(|f| drop(f.bytes.insert("more".into(), RawTensor::u8(&[1]))));
    assert!(e.contains("belongs to no node"), "{e}");
    let e = with(|f| f.bytes.get_mut("body.weight").unwrap().bytes[0] = 0x77);
    assert!(e.contains("3 bits do not hold"), "{e}");
    let e = with(|f| f.metadata.clear());
    assert!(e.contains("not an integer network"), "{e}");
}

/// All places of a JSON document.
fn places(v: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_string());
    match v {
        Value::Object(o) => o.iter().for_each(|(k, v)| places(v, &format!("{at}/{k}"), out)),
        Value::Array(a) => a.iter().enumerate().for_each(|(i, v)| places(v, &format!("{at}/{i}"), out)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(),
        whole: bool,
    ) {
        let mut file = bytes(&SMALL);
        for (at, byte) in edits {
            let i = at.index(file.len());
            file[i] = byte;
        }
        if !whole {
            file.truncate(keep.index(file.len()));
        }
        check(&file);
    }

    #[test]
    fn any_value_anywhere_in_the_header(
        at in any::<prop::sample::Index>(),
        value in prop_oneof![
            (0..40u64).prop_map(|v| json!(v)),
            any::<u64>().prop_map(|v| json!(v)),
            any::<i64>().prop_map(|v| json!(v)),
            any::<f64>().prop_map(|v| json!(v)),
            prop::collection::vec(0..12usize, 0..5).prop_map(|v| json!(v)),
            any::<bool>().prop_map(|v| json!(v)),
            Just(Value::Null),
            "[a-z_]{0,8}".prop_map(|v| json!(v)),
        ],
    ) {
        check(&with_header(|h| {
            let mut all = Vec::new();
            places(h, "", &mut all);
            *h.pointer_mut(&all[at.index(all.len())]).unwrap() = value;
        }));
    }
}

/// The program of `docs/format.md`, where there is a Python with numpy and safetensors (`GHOSTBIT_PYTHON`).
#[test]
fn python_reads_the_same_values() {
    let Some(python) = std::env::var_os("GHOSTBIT_PYTHON") else {
        println!("skipped: GHOSTBIT_PYTHON is not set");
        return;
    };
    let doc = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/format.md")).unwrap();
    let program = doc.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    SMALL.save(folder.path().join("n.safetensors")).unwrap();
    let run =
        std::process::Command::new(python).arg("-c").arg(program).arg(folder.path().join("n.safetensors")).output();
    let run = run.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(text.lines().count(), SMALL.tensors.weights.len());
    for (line, (name, weight)) in text.lines().zip(&SMALL.tensors.weights) {
        let values = weight.values();
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        let read: f64 = line.split_whitespace().last().unwrap().parse().unwrap();
        assert!(line.starts_with(name) && (read - mean).abs() < 2e-6, "{line} {mean}");
    }
}
