//! Convolution beyond the case table: accumulated gradients, errors, and CPU speed.

use ghostbit::Result;
use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::ops::conv2d::{Conv2dParams, conv2d, upsample_conv2d};
use ghostbit::ops::conv2d_depthwise::conv2d_depthwise;
use ghostbit::tensor::{DType, Tensor, init};
use std::time::Instant;

fn ramp(device: &Device, shape: [usize; 4], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let v: Vec<f32> = (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect();
    Tensor::from_slice(device, shape, &v).unwrap()
}

/// A value used by two convolutions receives the sum of both gradients, as does a filter used twice.
#[test]
fn gradients_accumulate() {
    let device = Device::cpu();
    let run = |tape: &mut Tape, x: &Var, w: &Var, p: Option<usize>| match p {
        Some(stride) => conv2d(tape, x, w, None, Conv2dParams::new(stride, 1)).unwrap(),
        None => upsample_conv2d(tape, x, w, None).unwrap(),
    };
    let (xv, wv) = (ramp(&device, [2, 5, 6, 3], 1), ramp(&device, [20, 3, 3, 3], 2));
    let grads = |kinds: &[Option<usize>]| {
        let mut tape = Tape::new(&device);
        let (x, w) = (tape.leaf(xv.clone()), tape.leaf(wv.clone()));
        let outs: Vec<Var> = kinds.iter().map(|&k| run(&mut tape, &x, &w, k)).collect();
        let seeds: Vec<(&Var, Tensor)> = outs
            .iter()
            .map(|o| (o, ramp(&device, [o.shape()[0], o.shape()[1], o.shape()[2], o.shape()[3]], 3)))
            .collect();
        let g = tape.backward_from(&seeds).unwrap();
        [g.of(&x).unwrap().to_f64().unwrap(), g.of(&w).unwrap().to_f64().unwrap()]
    };
    let kinds = [Some(1), Some(2), None];
    let all = grads(&kinds);
    let single: Vec<_> = kinds.iter().map(|&k| grads(&[k])).collect();
    for i in 0..2 {
        for j in 0..all[i].len() {
            let sum: f64 = single.iter().map(|s| s[i][j]).sum();
            assert!((all[i][j] - sum).abs() < 1e-4 * sum.abs().max(10.0), "gradient {i}[{j}]: {} != {sum}", all[i][j]);
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let device = Device::cpu();
    let try_it = |x: [usize; 4], w: [usize; 4], bias: usize, p: Conv2dParams| -> Result<Var> {
        let mut tape = Tape::new(&device);
        let (x, w) = (tape.leaf(ramp(&device, x, 1)), tape.leaf(ramp(&device, w, 2)));
        let b = Var::constant(Tensor::from_slice(&device, [bias], &vec![0f32; bias]).unwrap());
        conv2d(&mut tape, &x, &w, Some(&b), p)
    };
    let p = Conv2dParams::new;
    let message = |r: Result<Var>| r.err().expect("an error").to_string();
    assert!(message(try_it([1, 4, 4, 3], [2, 3, 3, 4], 2, p(1, 1))).contains("3 channels"));
    assert!(message(try_it([1, 4, 4, 3], [2, 3, 3, 3], 5, p(1, 1))).contains("bias has shape 5"));
    assert!(message(try_it([1, 2, 2, 3], [2, 5, 5, 3], 2, p(1, 1))).contains("does not fit"));
    assert!(message(try_it([1, 4, 4, 3], [2, 3, 3, 3], 2, p(0, 1))).contains("strides 0x0"));
    assert!(message(try_it([1, 4, 4, 3], [2, 3, 3, 3], 2, p(1, 1).dilations([1, 0]))).contains("dilations 1x0"));
    assert!(message(try_it([1, 4, 4, 3], [2, 3, 3, 3], 2, p(1, usize::MAX))).contains("does not fit"));
    assert!(message(try_it([1, 2, 4, 3], [2, 3, 3, 3], 2, p(1, 0).pads([0, 4, 0, 4]))).contains("0 4 0 4 (top"));
    assert!(try_it([1, 4, 4, 3], [2, 3, 3, 3], 2, p(1, 1)).is_ok());
}

/// A depthwise convolution is a convolution whose filter mixes no channels; in f64, outputs and all gradients.
#[test]
fn depthwise_is_a_diagonal_convolution() {
    let device = Device::cpu();
    let (c, r, s) = (5, 3, 4);
    let double = |t: Tensor| init::cast(&t, DType::F64).unwrap();
    let x = double(ramp(&device, [2, 9, 8, c], 1));
    let (narrow, bias) =
        (double(ramp(&device, [c, r, s, 1], 2)), Tensor::from_slice(&device, [c], &[1f64, 2., 3., 4., 5.]));
    let mut dense = vec![0f64; c * r * s * c];
    for (i, v) in narrow.to_f64().unwrap().into_iter().enumerate() {
        dense[i * c + i / (r * s)] = v;
    }
    let (dense, bias) = (Tensor::from_slice(&device, [c, r, s, c], &dense).unwrap(), bias.unwrap());
    let uneven = Conv2dParams::new(1, 0).strides([1, 2]).pads([0, 2, 3, 1]).dilations([2, 1]);
    for p in [Conv2dParams::new(1, 2), Conv2dParams::new(2, 1), Conv2dParams::new(2, 3).dilation(2), uneven] {
        let run = |w: &Tensor, depthwise: bool| {
            let mut tape = Tape::new(&device);
            let (x, w, b) = (tape.leaf(x.clone()), tape.leaf(w.clone()), tape.leaf(bias.clone()));
            let y = if depthwise {
                conv2d_depthwise(&mut tape, &x, &w, Some(&b), p)
            } else {
                conv2d(&mut tape, &x, &w, Some(&b), p)
            };
            let y = y.unwrap();
            let shape = [y.shape()[0], y.shape()[1], y.shape()[2], c];
            let g = tape.backward_from(&[(&y, double(ramp(&device, shape, 3)))]).unwrap();
            [y.value, g.of(&x).unwrap(), g.of(&w).unwrap(), g.of(&b).unwrap()].map(|t| t.to_f64().unwrap())
        };
        let (mut want, got) = (run(&dense, false), run(&narrow, true));
        want[2] = (0..c * r * s).map(|i| want[2][i * c + i / (r * s)]).collect();
        for (part, (want, got)) in want.iter().zip(&got).enumerate() {
            assert_eq!(want.len(), got.len());
            for (a, b) in want.iter().zip(got) {
                assert!((a - b).abs() < 1e-12, "{p:?}, part {part}: {a} {b}");
            }
        }
    }
    let mut tape = Tape::new(&device);
    let w = Var::constant(double(ramp(&device, [c, 3, 3, 2], 2)));
    let e = conv2d_depthwise(&mut tape, &Var::constant(x), &w, None, Conv2dParams::new(1, 1)).unwrap_err().to_string();
    assert!(e.contains("(5 r s 1)") && e.contains("5x3x3x2"), "{e}");
}

/// As `speed`, of depthwise convolutions with bias.
#[test]
#[ignore = "a measurement"]
fn depthwise_speed() {
    let device = Device::cpu();
    let p = Conv2dParams::new;
    let shapes = [
        ("5x5 c128 @16", [64, 16, 16, 128], 5, p(1, 2)),
        ("7x7 d3 c128 @16", [64, 16, 16, 128], 7, p(1, 9).dilation(3)),
        ("5x5 c64 @32", [64, 32, 32, 64], 5, p(1, 2)),
        ("7x7 d3 c64 @32", [64, 32, 32, 64], 7, p(1, 9).dilation(3)),
        ("3x3 c96 @32", [64, 32, 32, 96], 3, p(1, 1)),
        ("3x3 s2 c96 @32", [64, 32, 32, 96], 3, p(2, 1)),
    ];
    for (name, x, taps, p) in shapes {
        let (xv, wv) = (ramp(&device, x, 1), ramp(&device, [x[3], taps, taps, 1], 2));
        let mut best = [f64::MAX; 3];
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < 1.5 {
            for (i, best) in best.iter_mut().enumerate() {
                let mut tape = Tape::new(&device);
                let x = if i == 1 { tape.leaf(xv.clone()) } else { Var::constant(xv.clone()) };
                let w = if i == 2 { tape.leaf(wv.clone()) } else { Var::constant(wv.clone()) };
                let t = Instant::now();
                let y = conv2d_depthwise(&mut tape, &x, &w, None, p).unwrap();
                if i == 0 {
                    *best = best.min(t.elapsed().as_secs_f64());
                } else {
                    let dy = y.value.duplicate().unwrap();
                    let t = Instant::now();
                    tape.backward_from(&[(&y, dy)]).unwrap();
                    *best = best.min(t.elapsed().as_secs_f64());
                }
            }
        }
        println!(
            "{name:<18} fprop {:7.2} ms  dgrad {:7.2} ms  wgrad {:7.2} ms",
            best[0] * 1e3,
            best[1] * 1e3,
            best[2] * 1e3
        );
    }
}

/// `cargo test --release --test conv2d -- --ignored --nocapture`: milliseconds and GFLOP/s (counted products) per shape
/// and pass; RAYON_NUM_THREADS sets the threads.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let device = Device::cpu();
    let conv = |x, k, stride| (x, k, Some(stride));
    let shapes = [
        ("3->16 @32", conv([200, 32, 32, 3], 16, 1)),
        ("16->16 @32", conv([200, 32, 32, 16], 16, 1)),
        ("16->32 s2", conv([200, 32, 32, 16], 32, 2)),
        ("32->32 @16", conv([200, 16, 16, 32], 32, 1)),
        ("32->64 s2", conv([200, 16, 16, 32], 64, 2)),
        ("64->64 @8", conv([200, 8, 8, 64], 64, 1)),
        ("64->3 @32 n16", conv([16, 32, 32, 64], 3, 1)),
        ("up 128->128 @16 n16", ([16, 8, 8, 128], 128, None)),
        ("up 128->64 @32 n16", ([16, 16, 16, 128], 64, None)),
    ];
    println!("{}", device.name());
    let filter = std::env::var("SHAPE").unwrap_or_default();
    for (name, (x, k, stride)) in shapes.into_iter().filter(|s| s.0.contains(&filter)) {
        let (xv, wv) = (ramp(&device, x, 1), ramp(&device, [k, 3, 3, x[3]], 2));
        let mut line = format!("{name:<20}");
        let mut best = [f64::MAX; 3];
        let mut flops = 0.0;
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < 1.5 {
            for (i, best) in best.iter_mut().enumerate() {
                let mut tape = if i == 0 { Tape::inference(&device) } else { Tape::new(&device) };
                let x = if i == 1 { tape.leaf(xv.clone()) } else { Var::constant(xv.clone()) };
                let w = if i == 2 { tape.leaf(wv.clone()) } else { Var::constant(wv.clone()) };
                let t = Instant::now();
                let y = match stride {
                    Some(s) => conv2d(&mut tape, &x, &w, None, Conv2dParams::new(s, 1)).unwrap(),
                    None => upsample_conv2d(&mut tape, &x, &w, None).unwrap(),
                };
                let taps = if stride.is_some() { 9.0 } else { 4.0 };
                flops = 2.0 * y.value.len() as f64 * taps * x.shape()[3] as f64;
                if i == 0 {
                    *best = best.min(t.elapsed().as_secs_f64());
                } else {
                    let dy = y.value.duplicate().unwrap();
                    let t = Instant::now();
                    tape.backward_from(&[(&y, dy)]).unwrap();
                    *best = best.min(t.elapsed().as_secs_f64());
                }
            }
        }
        for (pass, best) in ["fprop", "dgrad", "wgrad"].iter().zip(best) {
            line += &format!("  {pass} {:7.2} ms {:6.1}", best * 1e3, flops / best / 1e9);
        }
        println!("{line}");
    }
}
