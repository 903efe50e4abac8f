//! Training steps on the emulated GPU: which kernels they launch, held against a plan, and runs beside each other.

#![cfg(feature = "emulator")]

use ghostbit::data::Normalization;
use ghostbit::device::Device;
use ghostbit::graph::Network;
use ghostbit::methods::Recipe;
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::tensor::io::Checkpoint;
use ghostbit::train::QuantizeRun;
use std::collections::BTreeMap;
use std::path::Path;

const PLAN: &str = "kernels/step.plan";

/// GDFQ of the built-in teacher, two images at a time.
fn gdfq(device: &Device) -> QuantizeRun {
    let mut teacher = Network::new(device, cifar_resnet(3, 10), 0).unwrap();
    let file = Checkpoint::parse(include_bytes!("../assets/teacher.safetensors")).unwrap();
    teacher.load_checkpoint(file, "assets/teacher.safetensors".as_ref()).unwrap();
    let mut recipe = Recipe::load("gdfq").unwrap();
    (recipe.batch, recipe.warmup) = (2, 1);
    QuantizeRun::new(device, teacher, Normalization::CIFAR, recipe).unwrap()
}

/// `<kernel> <generator step> <student step>` per line; `#` begins a comment.
fn plan(text: &str) -> BTreeMap<String, [u64; 2]> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or("").trim()).filter(|l| !l.is_empty());
    lines
        .map(|l| match l.split_whitespace().collect::<Vec<_>>()[..] {
            [kernel, g, s] => (kernel.to_string(), [g, s].map(|n| n.parse().unwrap_or_else(|_| panic!("{PLAN}: {l}")))),
            _ => panic!("{PLAN}: {l}"),
        })
        .collect()
}

#[test]
fn a_step_launches_what_the_plan_says() {
    let device = Device::emulator().unwrap().counting().unwrap();
    let mut found: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for (i, half) in gdfq(&device).work_by_kernel().unwrap().into_iter().enumerate() {
        half.into_iter().for_each(|(kernel, work)| found.entry(kernel.into()).or_default()[i] = work.launches);
    }
    let sums = [0, 1].map(|i| found.values().map(|l| l[i]).sum::<u64>());
    let mut text = String::from(
        "# What one GDFQ iteration of the built-in ResNet-20 launches on a GPU, kernel by kernel:\n\
         # <kernel> <launches of the generator step> <launches of the student step>; (copy) and (fill) are the driver's.\n\
         # The counts do not depend on the batch. tests/emulated_steps.rs holds the program against them; after a change:\n\
         #   GHOSTBIT_WRITE_PLAN=1 cargo test --release --test emulated_steps plan\n",
    );
    text += &format!("# All: {} and {}.\n\n", sums[0], sums[1]);
    found.iter().for_each(|(kernel, [g, s])| text += &format!("{kernel:<40} {g:>4} {s:>4}\n"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PLAN);
    if std::env::var_os("GHOSTBIT_WRITE_PLAN").is_some_and(|v| v != "0") {
        std::fs::write(&path, &text).unwrap();
    }
    let planned = plan(&std::fs::read_to_string(&path).unwrap_or_default());
    let kernels: std::collections::BTreeSet<&String> = planned.keys().chain(found.keys()).collect();
    let at = |map: &BTreeMap<String, [u64; 2]>, kernel: &String| map.get(kernel).copied().unwrap_or_default();
    let differ = kernels.into_iter().filter(|k| at(&planned, k) != at(&found, k));
    let differ: Vec<String> =
        differ.map(|k| format!("{k}: planned {:?}, launched {:?}", at(&planned, k), at(&found, k))).collect();
    assert!(
        differ.is_empty(),
        "{}\nlaunches of [generator step, student step] differ from {PLAN}; if that is meant, write it anew: \
         GHOSTBIT_WRITE_PLAN=1 cargo test --release --test emulated_steps plan",
        differ.join("\n")
    );
}

#[test]
fn counts_hold_bytes_and_products() {
    let device = Device::emulator().unwrap().counting().unwrap();
    let [_, student] = gdfq(&device).work_by_kernel().unwrap();
    // SGD reads values, gradients and momentum of all parameters and writes values and momentum: three tensors, each once.
    let sgd = student["optim_sgd_f32"];
    assert_eq!(sgd.launches, 1);
    assert!(sgd.bytes >= 3 * 4 * 269_722 && sgd.bytes < 3 * 4 * 280_000, "{sgd:?}");
    // ResNet-20 multiplies and adds 41 M times per image (He et al. 2016, table 6): the student's forward pass, and the gradients
    // of inputs and weights, without the first layer's input. (The teacher's logits come from the generator step.)
    let flops: f64 = student.values().map(|w| w.flops).sum();
    let forward = 2.0 * 2.0 * 40.8e6;
    assert!((2.95 * forward..3.0 * forward).contains(&flops), "{:.3} forward passes", flops / forward);
}

fn small_teacher(device: &Device) -> Network {
    Network::new(device, cifar_resnet(1, 10), 7).unwrap()
}

/// Every bit of the state after some iterations, graphs and all.
fn state(teacher: Network, seed: u64) -> Vec<u8> {
    let device = &teacher.device();
    let mut recipe = Recipe::load("gdfq").unwrap();
    for s in ["batch=2", "warmup=3", "iters=8", "math=f32"] {
        recipe.set(s).unwrap();
    }
    recipe.seed = seed;
    let mut run = QuantizeRun::new(device, teacher, Normalization::CIFAR, recipe).unwrap();
    for _ in 0..7 {
        run.advance(&mut |_| Ok(())).unwrap();
    }
    assert!(run.graphs() > 0);
    let folder = tempfile::tempdir().unwrap();
    run.checkpoint(folder.path()).unwrap();
    std::fs::read(folder.path().join("checkpoint.safetensors")).unwrap()
}

#[test]
fn runs_on_streams_of_one_gpu_do_not_touch_each_other() {
    let gpu = Device::emulator_guarded().unwrap();
    let alone: Vec<Vec<u8>> = [1, 2].iter().map(|s| state(small_teacher(&gpu.beside().unwrap()), *s)).collect();
    assert!(alone[0] != alone[1]);
    let together: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let start = |seed| {
            let teacher = small_teacher(&gpu.beside().unwrap());
            scope.spawn(move || state(teacher, seed))
        };
        let runs = [1, 2].map(start);
        runs.map(|r| r.join().unwrap()).into()
    });
    assert!(alone == together);

    // With one teacher for both, whose owner lets go of it while they run.
    let owner = small_teacher(&gpu);
    let before = owner.params.values().to_vec::<f32>().unwrap();
    let kept = owner.params.values().clone();
    let readers = [1, 2].map(|seed| (seed, owner.shared(&gpu.beside().unwrap()).unwrap()));
    for (_, reader) in &readers {
        assert_eq!(reader.params.values().address(), owner.params.values().address());
        let same = owner.buffers.iter().all(|(name, t)| reader.buffers[name].address() == t.address());
        assert!(same && reader.device() != gpu && reader.device().memory().live == 0);
    }
    let shared: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let runs = readers.map(|(seed, teacher)| scope.spawn(move || state(teacher, seed)));
        drop(owner);
        runs.map(|r| r.join().unwrap()).into()
    });
    assert!(alone == shared);
    assert_eq!(kept.to_vec::<f32>().unwrap(), before);
    drop(kept);
    assert_eq!(gpu.memory().live, 0, "the owner's memory is freed with the last reader");
}

#[test]
fn memory_is_lent_between_streams_of_one_device_only() {
    let gpu = Device::emulator().unwrap();
    let t = ghostbit::tensor::Tensor::from_slice(&gpu, [3], &[1f32, 2.0, 3.0]).unwrap();
    let e = t.lent(&Device::cpu()).unwrap_err().to_string();
    assert!(e.contains("cannot be read by cpu"), "{e}");
    let other = gpu.beside().unwrap();
    let reader = t.lent(&other).unwrap();
    drop(t);
    // Its block is not handed out again while somebody reads it.
    let next = ghostbit::tensor::Tensor::zeros(&gpu, [3], ghostbit::tensor::DType::F32).unwrap();
    assert_ne!(next.address(), reader.address());
    assert_eq!(reader.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0]);
}
