//! Every op's case table: f64 gradients against central differences; f32 on the CPU, and the kernels on the CUDA driver
//! in use (the emulator, or a GPU with GHOSTBIT_TEST_DRIVER=nvidia), against the f64 oracle; two runs bitwise equal.
//! Fresh memory is NaN on both devices, so a value that is read before it is written, or never written, fails its
//! comparison. Inputs must come out as they went in, and the kernels' buffers lie between guard bands.

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::{Device, Launch};
use ghostbit::ops::case::inputs::{Rng, tensor, values};
use ghostbit::ops::case::{Case, GradCheck, Input};
use ghostbit::tensor::{DType, Tensor, init};

struct Outcome {
    outputs: Vec<Vec<f64>>,
    /// One per input with `grad`.
    grads: Vec<Vec<f64>>,
    /// Inputs that were written to.
    changed: Vec<usize>,
}

/// Cotangents are fixed by the output's index and size alone.
fn cotangent(index: usize, n: usize) -> Vec<f64> {
    let mut rng = Rng(1000 + index as u64);
    (0..n).map(|_| f64::from(rng.normal() as f32)).collect()
}

fn execute(case: &Case, device: &Device, inputs: &[Vec<f64>], dtype: DType) -> Outcome {
    let grads_wanted = case.check != GradCheck::None;
    let mut tape = if grads_wanted { Tape::new(device) } else { Tape::inference(device) };
    let vars: Vec<Var> = case
        .inputs
        .iter()
        .zip(inputs)
        .map(|(i, v)| {
            let t = tensor(device, i, v, dtype).unwrap();
            if i.grad && grads_wanted { tape.leaf(t) } else { Var::constant(t) }
        })
        .collect();
    let bits = |v: &Var| v.value.to_f64().unwrap().into_iter().map(f64::to_bits).collect::<Vec<u64>>();
    let before: Vec<Vec<u64>> = vars.iter().map(bits).collect();
    let outs = (case.run)(&mut tape, &vars).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let outputs = outs.iter().map(|o| o.value.to_f64().unwrap()).collect();
    let mut grads = Vec::new();
    if grads_wanted {
        let seeds: Vec<(&Var, Tensor)> = outs
            .iter()
            .enumerate()
            .filter(|(_, o)| o.needs_grad())
            .map(|(i, o)| {
                let c = Tensor::from_slice(&Device::cpu(), o.shape(), &cotangent(i, o.value.len())).unwrap();
                (o, init::cast(&c, dtype).unwrap().to_device(device).unwrap())
            })
            .collect();
        let g = tape.backward_from(&seeds).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        for (i, v) in case.inputs.iter().zip(&vars) {
            if i.grad {
                grads.push(
                    g.of(v).unwrap_or_else(|| panic!("{}: an input got no gradient", case.name)).to_f64().unwrap(),
                );
            }
        }
    }
    let changed = (0..vars.len()).filter(|&i| bits(&vars[i]) != before[i]).collect();
    Outcome { outputs, grads, changed }
}

/// Largest difference relative to the largest oracle magnitude.
fn compare(what: &str, case: &Case, got: &[f64], want: &[f64], failures: &mut Vec<String>) {
    assert_eq!(got.len(), want.len(), "{}: {what}: length", case.name);
    let top = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    let mut worst = (0.0, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let d = if (g - w).is_finite() { (g - w).abs() / top } else { f64::INFINITY };
        if d > worst.0 {
            worst = (d, i);
        }
    }
    if worst.0 > case.tolerance() {
        let i = worst.1;
        failures.push(format!(
            "{}: {what}[{i}] = {:e}, oracle {:e}: relative {:.3e} > {:.3e}",
            case.name,
            got[i],
            want[i],
            worst.0,
            case.tolerance()
        ));
    }
}

fn differences(case: &Case, inputs: &[Vec<f64>], oracle: &Outcome, failures: &mut Vec<String>) {
    let device = Device::cpu();
    let loss = |inputs: &[Vec<f64>]| -> f64 {
        let mut tape = Tape::inference(&device);
        let vars: Vec<Var> = case
            .inputs
            .iter()
            .zip(inputs)
            .map(|(i, v)| Var::constant(tensor(&device, i, v, DType::F64).unwrap()))
            .collect();
        let outs = (case.run)(&mut tape, &vars).unwrap();
        let mut sum = 0.0;
        for (i, o) in outs.iter().enumerate() {
            let c = cotangent(i, o.value.len());
            sum += o.value.to_f64().unwrap().iter().zip(&c).map(|(a, b)| a * b).sum::<f64>();
        }
        sum
    };
    let mut rng = Rng(7);
    let wanted = (0..case.inputs.len()).filter(|&i| case.inputs[i].grad);
    for (g, i) in wanted.enumerate() {
        let n = inputs[i].len();
        let top = oracle.grads[g].iter().fold(1e-3f64, |m, v| m.max(v.abs()));
        for _ in 0..n.min(12) {
            let j = (rng.bits() % n as u64) as usize;
            let h = 1e-5 * inputs[i][j].abs().max(1.0);
            let mut moved = inputs.to_vec();
            moved[i][j] += h;
            let up = loss(&moved);
            moved[i][j] -= 2.0 * h;
            let down = loss(&moved);
            let numeric = (up - down) / (2.0 * h);
            let analytic = oracle.grads[g][j];
            // Central differences in f64 are good to about h^2 plus rounding / h: 1e-6 of the scale is a wide margin.
            if !((numeric - analytic).abs() <= 1e-6 * top) {
                failures
                    .push(format!("{}: gradient of input {i}[{j}] = {analytic:e}, differences {numeric:e}", case.name));
            }
        }
    }
}

fn all_cases(mut visit: impl FnMut(&'static str, &Case, &[Vec<f64>], &mut Vec<String>)) {
    let filter = std::env::var("GHOSTBIT_OP").unwrap_or_default();
    let mut failures = Vec::new();
    let mut count = 0;
    for (op, cases) in ghostbit::ops::registry() {
        assert!(!cases.is_empty(), "{op} has no cases");
        for case in cases.iter().filter(|_| filter.is_empty() || op.contains(&filter)) {
            let mut rng = Rng(42);
            let inputs: Vec<Vec<f64>> = case.inputs.iter().map(|i| values(i, &mut rng)).collect();
            let before = failures.len();
            visit(op, case, &inputs, &mut failures);
            for f in &mut failures[before..] {
                *f = format!("{op}/{f}");
            }
            count += 1;
        }
    }
    assert!(count > 0, "no case matches GHOSTBIT_OP={filter}");
    assert!(failures.is_empty(), "{} of {count} cases fail:\n{}", failures.len(), failures.join("\n"));
}

fn bitwise_equal(a: &Outcome, b: &Outcome) -> bool {
    let bits = |o: &Outcome| -> Vec<u64> { o.outputs.iter().chain(&o.grads).flatten().map(|v| v.to_bits()).collect() };
    bits(a) == bits(b)
}

#[test]
fn f64_gradients_match_central_differences() {
    all_cases(|_, case, inputs, failures| {
        if case.check == GradCheck::Differences && !case.bench {
            let oracle = execute(case, &Device::cpu_poisoned(), inputs, DType::F64);
            differences(case, inputs, &oracle, failures);
        }
    });
}

/// Everything that is asked of one case on one device, in f32.
fn against_oracle(case: &Case, device: &Device, inputs: &[Vec<f64>], failures: &mut Vec<String>) {
    let oracle = execute(case, &Device::cpu_poisoned(), inputs, DType::F64);
    let first = execute(case, device, inputs, DType::F32);
    for (i, (g, w)) in first.outputs.iter().zip(&oracle.outputs).enumerate() {
        compare(&format!("output {i}"), case, g, w, failures);
    }
    for (i, (g, w)) in first.grads.iter().zip(&oracle.grads).enumerate() {
        compare(&format!("gradient {i}"), case, g, w, failures);
    }
    let second = execute(case, device, inputs, DType::F32);
    if !bitwise_equal(&first, &second) {
        failures.push(format!("{}: two runs differ", case.name));
    }
    for i in oracle.changed.iter().chain(&first.changed) {
        failures.push(format!("{}: input {i} was changed", case.name));
    }
    // All buffers but those that the device keeps are freed by now; writes past them were noted.
    if let Err(e) = device.synchronize() {
        failures.push(format!("{}: {e}", case.name));
    }
}

#[test]
fn cpu_f32_matches_the_oracle() {
    let device = Device::cpu_poisoned();
    all_cases(|_, case, inputs, failures| against_oracle(case, &device, inputs, failures));
}

fn nvidia() -> bool {
    std::env::var("GHOSTBIT_TEST_DRIVER").is_ok_and(|v| v == "nvidia")
}

fn guarded() -> Device {
    if nvidia() { Device::cuda_guarded() } else { Device::emulator_guarded() }.unwrap()
}

#[test]
fn kernels_match_the_oracle() {
    let device = guarded();
    all_cases(|_, case, inputs, failures| {
        // Production shapes take minutes on the emulator; a GPU and the CPU run them.
        if nvidia() || !case.bench {
            against_oracle(case, &device, inputs, failures);
        }
    });
}

/// `y = 2 x` on 100 elements, with one fault on the GPU side.
fn planted(fault: &'static str) -> Case {
    const N: usize = 100;
    let run = move |_: &mut Tape, v: &[Var]| {
        let x = &v[0].value;
        let mut y = Tensor::empty_like(x, x.shape())?;
        let Some(gpu) = x.gpu() else {
            let doubled: Vec<f64> = x.to_f64()?.iter().map(|v| 2.0 * v).collect();
            y.write(&doubled)?;
            return Ok(vec![Var::constant(y)]);
        };
        // y += 2 x
        let saxpy = |y: u64, x: u64, n: usize| {
            Launch::over("selftest_saxpy", n, 256).ptr(y).ptr(x).val(2f32).val(n as i32).run(gpu)
        };
        let written = if fault == "unwritten" { N - 1 } else { N };
        y.view(0, [written])?.fill_zero()?;
        saxpy(y.address(), x.address(), written)?;
        match fault {
            "past the end" => saxpy(y.address() + 4 * N as u64, x.address(), 1)?,
            "before" => saxpy(y.address() - 4, x.address(), 1)?,
            "input" => saxpy(x.address(), x.address(), 1)?,
            _ => {}
        }
        Ok(vec![Var::constant(y)])
    };
    Case::new(fault, vec![Input::plain([N])], run).check(GradCheck::None)
}

/// The harness can fail: a right op passes, and each planted fault is found as what it is. The right one comes first and
/// leaves the right values behind in the pool, where an element that is never written would find them.
#[test]
fn planted_faults_are_found() {
    if std::env::var("GHOSTBIT_TEST_DRIVER").is_ok_and(|v| v == "check") {
        println!("skipped: the checking library refuses such launches (tests/emulator.rs)");
        return;
    }
    let device = guarded();
    for (fault, words) in [
        ("none", ""),
        ("unwritten", "output 0[99] = NaN"),
        ("past the end", "bytes 1 to 4 past the end of a buffer of 400 bytes were written"),
        ("before", "bytes 1 to 4 before a buffer of 400 bytes were written"),
        ("input", "input 0 was changed"),
        ("none", ""),
    ] {
        let case = planted(fault);
        let inputs: Vec<Vec<f64>> = case.inputs.iter().map(|i| values(i, &mut Rng(42))).collect();
        let mut failures = Vec::new();
        against_oracle(&case, &device, &inputs, &mut failures);
        let text = failures.join("; ");
        assert!(if words.is_empty() { failures.is_empty() } else { text.contains(words) }, "{fault}: '{text}'");
    }
}
