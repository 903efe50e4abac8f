//! Integer convolution beyond the case table: kernels and CPU give the same bits; errors; speed.

use ghostbit::Result;
use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::ops::conv2d::{Conv2dParams, conv2d};
use ghostbit::ops::conv2d_int::{Codes, conv2d_int};
use ghostbit::tensor::{DType, Shape, Tensor};
use std::time::Instant;

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

fn run(x: &Codes, w: &Codes, bias: Option<&Var>, p: Conv2dParams) -> Result<Var> {
    let mut tape = Tape::inference(&x.values.device());
    conv2d_int(&mut tape, [&values(x), &values(w)], [x, w], bias, p)
}

#[test]
fn kernels_equal_the_cpu_bit_for_bit() {
    let Ok(gpu) = Device::emulator() else { return };
    let p = Conv2dParams::new;
    let shapes = [
        ([2, 5, 7, 16], [17, 3, 3], p(1, 1)),
        ([1, 6, 5, 4], [5, 3, 3], p(2, 1)),
        ([1, 5, 6, 3], [40, 3, 2], p(1, 2)),
        ([1, 7, 6, 3], [3, 3, 3], p(1, 2).dilation(2)),
        // More taps than a block has room for.
        ([1, 6, 5, 16], [40, 7, 5], p(1, 3)),
    ];
    let mut seed = 0;
    for xbits in 2..=8 {
        for wbits in 2..=8 {
            seed += 1;
            let (x_shape, [k, r, s], p) = shapes[seed % shapes.len()];
            let (xlo, wlo) = ([0.0, -0.5, 0.3, -9.0][seed / 4 % 4], [-0.8, -1.7, 0.2][seed % 3]);
            let bits = |device: &Device| -> Vec<u32> {
                let x = codes(device, &x_shape, xbits, 1, xlo, 1);
                let w = codes(device, &[k, r, s, x_shape[3]], wbits, k, wlo, 2);
                let bias: Vec<f32> = (0..k).map(|i| i as f32 * 0.37 - 1.0).collect();
                let bias = Var::constant(Tensor::from_slice(device, [k], &bias).unwrap());
                let y = run(&x, &w, Some(&bias), p).unwrap();
                y.value.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
            };
            assert_eq!(bits(&Device::cpu()), bits(&gpu), "a{xbits} w{wbits} {x_shape:?} {p:?}");
        }
    }
}

#[test]
fn wrong_operands_are_errors() {
    let device = Device::cpu();
    let x = codes(&device, &[1, 4, 4, 3], 4, 1, 0.0, 1);
    let w = codes(&device, &[2, 3, 3, 3], 4, 2, -1.0, 2);
    let p = Conv2dParams::new(1, 1);
    let message = |x: &Codes, w: &Codes| run(x, w, None, p).err().expect("an error").to_string();
    assert!(run(&x, &w, None, p).is_ok());
    assert!(message(&x, &codes(&device, &[2, 3, 3, 4], 4, 2, -1.0, 2)).contains("3 channels"));
    assert!(message(&x, &codes(&device, &[2, 3, 3, 3], 4, 1, -1.0, 2)).contains("2 ranges"));
    assert!(message(&Codes { bits: 9, ..x.clone() }, &w).contains("9 bits"));
    let floats = Tensor::zeros(&device, [1, 4, 4, 3], DType::F32).unwrap();
    assert!(message(&Codes { values: floats, ..x.clone() }, &w).contains("I8"));
    let long = codes(&device, &[1, 3, 3, 14_600], 8, 1, 0.0, 1);
    assert!(message(&long, &codes(&device, &[1, 3, 3, 14_600], 8, 1, 0.0, 1)).contains("131071"));
}

/// `cargo test --release --test conv2d_int -- --ignored --nocapture`: milliseconds beside the f32 convolution.
#[test]
#[ignore = "prints speeds"]
fn speed() {
    let device = Device::cpu();
    for n in [1, 64] {
        for (hw, c, k, stride) in [(32, 16, 16, 1), (16, 32, 32, 1), (8, 64, 64, 1), (32, 16, 32, 2), (14, 256, 256, 1)]
        {
            for bits in [4, 8] {
                let p = Conv2dParams::new(stride, 1);
                let (x, w) =
                    (codes(&device, &[n, hw, hw, c], bits, 1, 0.0, 1), codes(&device, &[k, 3, 3, c], bits, k, -0.8, 2));
                let (xv, wv) = (values(&x), values(&w));
                let mut best = [f64::INFINITY; 2];
                for _ in 0..15 {
                    let start = Instant::now();
                    conv2d(&mut Tape::inference(&device), &xv, &wv, None, p).unwrap();
                    best[0] = best[0].min(start.elapsed().as_secs_f64());
                    let start = Instant::now();
                    conv2d_int(&mut Tape::inference(&device), [&xv, &wv], [&x, &w], None, p).unwrap();
                    best[1] = best[1].min(start.elapsed().as_secs_f64());
                }
                let [f, i] = best.map(|s| s * 1e3);
                println!("n{n} {hw}x{hw}x{c}->{k} s{stride} int{bits}: f32 {f:.3} ms, int {i:.3} ms, {:.2}x", f / i);
            }
        }
    }
}
