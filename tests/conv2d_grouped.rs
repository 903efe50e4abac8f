//! Grouped convolution beyond the case tables: it is a dense one with zeros, in integers kernels and CPU give the same bits,
//! errors, speed.

use ghostbit::Result;
use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::ops::conv2d::{Conv2dParams, conv2d};
use ghostbit::ops::conv2d_depthwise_int::conv2d_depthwise_int;
use ghostbit::ops::conv2d_grouped::{Groups, conv2d_grouped};
use ghostbit::ops::conv2d_grouped_int::{Filter, conv2d_grouped_int};
use ghostbit::ops::conv2d_int::{Codes, Ranges, conv2d_int};
use ghostbit::quant::Affine;
use ghostbit::tensor::{DType, Shape, Tensor, init};
use std::time::Instant;

fn ramp(device: &Device, shape: &[usize], seed: usize) -> Tensor {
    let shape = Shape::from(shape);
    let v: Vec<f32> =
        (0..shape.elements()).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect();
    Tensor::from_slice(device, shape, &v).unwrap()
}

fn double(t: Tensor) -> Tensor {
    init::cast(&t, DType::F64).unwrap()
}

/// `w[k r s c/groups]` with zeros where an output channel does not see the input: `[k r s c]`.
fn dense(w: &[f64], [k, taps, c]: [usize; 3], groups: usize) -> Vec<f64> {
    let mut all = vec![0.0; k * taps * c * groups];
    for (i, v) in w.iter().enumerate() {
        let (filter, tap, channel) = (i / (taps * c), i / c % taps, i % c);
        all[(filter * taps + tap) * c * groups + filter / (k / groups) * c + channel] = *v;
    }
    all
}

/// In f64, outputs and all gradients; in f32 to rounding, along all paths of the CPU.
#[test]
fn groups_are_blocks_of_a_dense_filter() {
    let device = Device::cpu();
    let p = Conv2dParams::new;
    let uneven = p(1, 0).strides([1, 2]).pads([0, 2, 3, 1]).dilations([2, 1]);
    for (groups, c, k) in [(1, 3, 5), (2, 2, 3), (4, 1, 2), (3, 8, 9), (20, 4, 4)] {
        for p in [p(1, 1), p(2, 1), p(2, 2).dilation(2), uneven] {
            let (r, s, all_c, all_k) = (3, 2, groups * c, groups * k);
            let x = ramp(&device, &[2, 9, 8, all_c], 1);
            let (w, b) = (ramp(&device, &[all_k, r, s, c], 2), ramp(&device, &[all_k], 3));
            let run = |x: Tensor, w: Tensor, b: Tensor, grouped: bool| {
                let mut tape = Tape::new(&device);
                let dtype = x.dtype();
                let (x, w, b) = (tape.leaf(x), tape.leaf(w), tape.leaf(b));
                let y = match grouped {
                    true => conv2d_grouped(&mut tape, &x, &w, Some(&b), groups, p),
                    false => conv2d(&mut tape, &x, &w, Some(&b), p),
                };
                let y = y.unwrap();
                let dy = init::cast(&ramp(&device, &y.shape(), 4), dtype).unwrap();
                let g = tape.backward_from(&[(&y, dy)]).unwrap();
                [y.value, g.of(&x).unwrap(), g.of(&w).unwrap(), g.of(&b).unwrap()].map(|t| t.to_f64().unwrap())
            };
            let filled = dense(&double(w.clone()).to_f64().unwrap(), [all_k, r * s, c], groups);
            let filled = Tensor::from_slice(&device, [all_k, r, s, all_c], &filled).unwrap();
            let mut want = run(double(x.clone()), filled, double(b.clone()), false);
            let seen = dense(&vec![1.0; w.len()], [all_k, r * s, c], groups);
            want[2] = want[2].iter().zip(seen).filter(|(_, seen)| *seen != 0.0).map(|(v, _)| *v).collect();
            let exact = run(double(x.clone()), double(w.clone()), double(b.clone()), true);
            for (part, (want, got)) in want.iter().zip(&exact).enumerate() {
                assert_eq!(want.len(), got.len());
                let close = want.iter().zip(got).all(|(a, b)| (a - b).abs() < 1e-11);
                assert!(close, "{groups} groups of {c} to {k}, {p}: part {part} in f64");
            }
            let rounded = run(x, w, b, true);
            for (part, (want, got)) in want.iter().zip(&rounded).enumerate() {
                let close = want.iter().zip(got).all(|(a, b)| (a - b).abs() < 1e-4);
                assert!(close, "{groups} groups of {c} to {k}, {p}: part {part} in f32");
            }
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let device = Device::cpu();
    let message = |x: [usize; 4], w: [usize; 4], bias: usize, groups: usize, p: Conv2dParams| -> String {
        let mut tape = Tape::inference(&device);
        let [x, w, b] = [&x[..], &w[..], &[bias][..]].map(|shape| Var::constant(ramp(&device, shape, 1)));
        match conv2d_grouped(&mut tape, &x, &w, Some(&b), groups, p) {
            Ok(_) => String::new(),
            Err(e) => e.to_string(),
        }
    };
    let p = Conv2dParams::new(1, 1);
    assert_eq!(message([1, 4, 4, 6], [4, 3, 3, 3], 4, 2, p), "");
    assert!(message([1, 4, 4, 6], [4, 3, 3, 3], 4, 0, p).contains("0 groups"));
    assert!(message([1, 4, 4, 5], [4, 3, 3, 3], 4, 2, p).contains("2 groups"));
    assert!(message([1, 4, 4, 6], [5, 3, 3, 3], 5, 2, p).contains("2 groups"));
    assert!(message([1, 4, 4, 6], [4, 3, 3, 6], 4, 2, p).contains("(k r s 3)"));
    assert!(message([1, 4, 4, 6], [4, 3, 3, 3], 2, 2, p).contains("bias has shape 2, expected [4]"));
    assert!(message([1, 2, 2, 6], [4, 5, 5, 3], 4, 2, p).contains("does not fit"));
}

/// Codes over the whole width, in ranges that begin at `lo`, shifted and stretched a little from channel to channel.
fn codes(device: &Device, shape: &[usize], bits: u8, ranges: usize, lo: f32, seed: usize) -> Codes {
    let (shape, steps) = (Shape::from(shape), 1usize << bits);
    let v: Vec<i8> = (0..shape.elements())
        .map(|i| (((i * 7919 + seed * 104_729) % 1009 * steps / 1009) as i16 - (steps / 2) as i16) as i8)
        .collect();
    let end = |from: f32| -> Vec<f32> { (0..ranges).map(|k| from + 0.013 * k as f32).collect() };
    Codes {
        values: Tensor::from_slice(device, shape, &v).unwrap(),
        lo: Tensor::from_slice(device, [ranges], &end(lo)).unwrap(),
        hi: Tensor::from_slice(device, [ranges], &end(lo + 1.7)).unwrap(),
        bits,
    }
}

/// The values do not matter to the forward pass.
fn values(c: &Codes) -> Var {
    Var::constant(Tensor::zeros(&c.values.device(), c.values.shape(), DType::F32).unwrap())
}

fn bits(y: &Tensor) -> Vec<u32> {
    y.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// The op and a prepared filter, on the CPU and by kernels; where there is an op of codes that computes the same, it too.
#[test]
fn codes_give_equal_bits_everywhere() {
    let mut devices = vec![Device::cpu()];
    devices.extend(Device::emulator());
    let p = Conv2dParams::new;
    let shapes = [
        ([2, 5, 7, 12], [16, 3, 3], 4, p(1, 1)),
        ([1, 6, 5, 6], [9, 3, 2], 3, p(2, 1)),
        ([2, 5, 6, 10], [20, 3, 3], 10, p(1, 2)),
        ([1, 7, 6, 20], [18, 3, 3], 2, p(1, 2).dilation(2)),
        ([2, 6, 5, 32], [48, 3, 3], 2, p(1, 0).strides([1, 2]).pads([0, 2, 1, 1])),
        ([1, 6, 5, 7], [5, 3, 3], 1, p(1, 1)),
        ([2, 6, 5, 8], [8, 3, 3], 8, p(2, 1)),
    ];
    let mut seed = 0;
    for (x_shape, [k, r, s], groups, p) in shapes {
        // Ranges around 0, beyond it, and so far from it that sums leave 32 bits.
        for (xlo, wlo) in [(0.0, -0.8), (-0.5, 0.2), (0.3, -1.7), (-900.0, 5000.0)] {
            seed += 1;
            let (xbits, wbits) = (2 + seed as u8 % 7, 2 + seed as u8 * 3 % 7);
            let w_shape = [k, r, s, x_shape[3] / groups];
            let mut found: Vec<(String, Vec<u32>)> = Vec::new();
            for device in &devices {
                let x = codes(device, &x_shape, xbits, 1, xlo, 1);
                let w = codes(device, &w_shape, wbits, k, wlo, 2);
                let b: Vec<f32> = (0..k).map(|i| i as f32 * 0.37 - 1.0).collect();
                let b = Var::constant(Tensor::from_slice(device, [k], &b).unwrap());
                let (xv, wv, mut tape) = (values(&x), values(&w), Tape::inference(device));
                let t = &mut tape;
                let y = conv2d_grouped_int(t, [&xv, &wv], [&x, &w], Some(&b), groups, p).unwrap();
                found.push((format!("op on {device:?}"), bits(&y.value)));
                if groups == 1 {
                    let y = conv2d_int(t, [&xv, &wv], [&x, &w], Some(&b), p).unwrap();
                    found.push((format!("dense on {device:?}"), bits(&y.value)));
                }
                if groups == x_shape[3] && k == groups {
                    let y = conv2d_depthwise_int(t, [&xv, &wv], [&x, &w], Some(&b), p).unwrap();
                    found.push((format!("depthwise on {device:?}"), bits(&y.value)));
                }
                let affine = |c: &Codes, i: usize| {
                    let [lo, hi] = [&c.lo, &c.hi].map(|t| t.to_vec::<f32>().unwrap()[i]);
                    Affine::new(lo, hi, c.bits)
                };
                let ranges = Ranges::new(affine(&x, 0), (0..k).map(|i| affine(&w, i)).collect());
                // Prepared for one image, used for all.
                let one = [1, x_shape[1], x_shape[2], x_shape[3]];
                let g = Groups::new("filter", one.into(), w_shape.into(), groups, p).unwrap();
                let filter = Filter::new(device, &w.values.to_vec::<i8>().unwrap(), &ranges, g).unwrap();
                let y = filter.fprop(&x.values, Some(&b.value)).unwrap();
                found.push((format!("filter on {device:?}"), bits(&y)));
                let other = codes(device, &[1, 9, 9, x_shape[3]], xbits, 1, xlo, 1);
                assert!(filter.fprop(&other.values, None).unwrap_err().to_string().contains("prepared for"));
            }
            for (name, got) in &found[1..] {
                assert!(
                    *got == found[0].1,
                    "{name}: a{xbits} w{wbits} {x_shape:?} in {groups} groups from {xlo} {wlo}, {p}"
                );
            }
        }
    }
}

#[test]
fn wrong_codes_are_errors() -> Result<()> {
    let device = Device::cpu();
    let (x, w) = (codes(&device, &[1, 4, 4, 6], 4, 1, 0.0, 1), codes(&device, &[4, 3, 3, 3], 4, 4, -1.0, 2));
    let message = |x: &Codes, w: &Codes, groups: usize| {
        let mut tape = Tape::inference(&device);
        let y = conv2d_grouped_int(&mut tape, [&values(x), &values(w)], [x, w], None, groups, Conv2dParams::new(1, 1));
        y.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(message(&x, &w, 2), "");
    assert!(message(&x, &w, 4).contains("4 groups"));
    assert!(message(&x, &codes(&device, &[4, 3, 3, 3], 4, 1, -1.0, 2), 2).contains("4 ranges"));
    assert!(message(&Codes { bits: 9, ..x.clone() }, &w, 2).contains("9 bits"));
    let g = Groups::new("filter", x.values.shape(), w.values.shape(), 2, Conv2dParams::new(1, 1))?;
    let ranges = Ranges::new(Affine::new(0.0, 1.0, 4), vec![Affine::new(-1.0, 1.0, 4); 3]);
    let e = Filter::new(&device, w.values.host(), &ranges, g).err().expect("an error").to_string();
    assert!(e.contains("3 ranges"), "{e}");
    Ok(())
}

/// `cargo test --release --test conv2d_grouped -- --ignored --nocapture`: milliseconds of forward, all gradients, and of codes.
#[test]
#[ignore = "prints speeds"]
fn speed() {
    let device = Device::cpu();
    for (hw, c, k, groups, stride) in [
        (14, 128, 128, 32, 1),
        (56, 128, 128, 32, 1),
        (28, 256, 256, 32, 1),
        (7, 1024, 1024, 32, 1),
        (28, 64, 64, 8, 1),
        (14, 320, 320, 20, 1),
        (28, 64, 128, 64, 1),
        (28, 256, 256, 32, 2),
    ] {
        let p = Conv2dParams::new(stride, 1);
        let x = codes(&device, &[16, hw, hw, c], 8, 1, 0.0, 1);
        let w = codes(&device, &[k, 3, 3, c / groups], 8, k, -0.8, 2);
        let mut best = [f64::INFINITY; 3];
        for _ in 0..7 {
            let mut tape = Tape::new(&device);
            let (xv, wv) = (tape.leaf(values(&x).value), tape.leaf(values(&w).value));
            let start = Instant::now();
            let y = conv2d_grouped(&mut tape, &xv, &wv, None, groups, p).unwrap();
            best[0] = best[0].min(start.elapsed().as_secs_f64());
            let start = Instant::now();
            tape.backward_from(&[(&y, y.value.clone())]).unwrap();
            best[1] = best[1].min(start.elapsed().as_secs_f64());
            let start = Instant::now();
            let mut tape = Tape::inference(&device);
            conv2d_grouped_int(&mut tape, [&xv, &wv], [&x, &w], None, groups, p).unwrap();
            best[2] = best[2].min(start.elapsed().as_secs_f64());
        }
        let g = Groups::new("speed", x.values.shape(), w.values.shape(), groups, p).unwrap();
        let [forward, back, int] = best;
        let giga = g.flops() / 1e9;
        println!(
            "{hw}x{hw}x{c}->{k} in {groups} s{stride}: forward {:.2} ms ({:.1} GFLOP/s), backward {:.2} ms ({:.1}), codes {:.2} ms \
             ({:.1})",
            forward * 1e3,
            giga / forward,
            back * 1e3,
            2.0 * giga / back,
            int * 1e3,
            giga / int
        );
    }
}
