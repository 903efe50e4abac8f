//! Every op's case table: f64 gradients against central differences; f32 on the CPU, and the kernels on the CUDA driver
//! in use (the emulator, or a GPU with GHOSTBIT_TEST_DRIVER=nvidia), against the f64 oracle; two runs bitwise equal.
//! Fresh memory is NaN on both devices, so a value that is read before it is written fails its comparison.

mod inputs;

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::ops::case::{Case, GradCheck};
use ghostbit::tensor::{DType, Tensor, init};
use inputs::{Rng, tensor, values};

struct Outcome {
    outputs: Vec<Vec<f64>>,
    /// One per input with `grad`.
    grads: Vec<Vec<f64>>,
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
            let t = tensor(device, i, v, dtype);
            if i.grad && grads_wanted { tape.leaf(t) } else { Var::constant(t) }
        })
        .collect();
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
    Outcome { outputs, grads }
}

/// Largest difference relative to the largest oracle magnitude.
fn compare(what: &str, case: &Case, got: &[f64], want: &[f64], failures: &mut Vec<String>) {
    assert_eq!(got.len(), want.len(), "{}: {what}: length", case.name);
    let top = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    let mut worst = (0.0, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let d = if g.is_finite() { (g - w).abs() / top } else { f64::INFINITY };
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
        let vars: Vec<Var> =
            case.inputs.iter().zip(inputs).map(|(i, v)| Var::constant(tensor(&device, i, v, DType::F64))).collect();
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

fn against_oracle(device: &Device, emulated: bool) {
    all_cases(|op, case, inputs, failures| {
        // Production shapes take minutes on the emulator; a GPU and the CPU run them.
        if emulated && case.bench {
            return;
        }
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
            failures.push(format!("{}: two runs differ ({op})", case.name));
        }
    });
}

#[test]
fn cpu_f32_matches_the_oracle() {
    against_oracle(&Device::cpu_poisoned(), false);
}

#[test]
fn kernels_match_the_oracle() {
    let nvidia = std::env::var("GHOSTBIT_TEST_DRIVER").is_ok_and(|v| v == "nvidia");
    let device = if nvidia { Device::open("cuda").unwrap().0 } else { Device::emulator().unwrap() };
    against_oracle(&device, !nvidia);
}
