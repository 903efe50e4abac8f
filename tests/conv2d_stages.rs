//! Kernels for many channels (`kernels/conv2d_stages.cu` and `conv2d_wgrad_stages.cu`) beside the general ones that compute the same, and which shapes take them.

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::{Device, Launch};
use ghostbit::ops::conv_bn_tune::TuneNorm;
use ghostbit::ops::conv_stats::{After, conv_stats};
use ghostbit::ops::conv2d::{Conv2dParams, Geometry, Math, conv2d};
use ghostbit::tensor::{DType, Tensor};

fn ramp(device: &Device, shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let v: Vec<f32> = (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect();
    Tensor::from_slice(device, shape, &v).unwrap()
}

/// A GPU if the tests run on one, else the emulator.
fn guarded() -> Device {
    let nvidia = std::env::var("GHOSTBIT_TEST_DRIVER").is_ok_and(|v| v == "nvidia");
    if nvidia { Device::cuda_guarded() } else { Device::emulator_guarded() }.unwrap()
}

/// `ConvShape` of the kernels.
fn sizes(g: &Geometry) -> [i32; 15] {
    let ([top, left, ..], [down, across], [apart, beside]) = (g.pad, g.stride, g.dilation);
    [g.n, g.h, g.w, g.c, g.k, g.r, g.s, g.p, g.q, down, across, top, left, apart, beside].map(|v| v as i32)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `0.5 * out + bias + product` by a kernel with column tiles of `cols` and `smem` bytes of dynamic shared memory.
fn launched(device: &Device, kernel: &'static str, g: &Geometry, cols: usize, smem: u32) -> Vec<f32> {
    let shape = sizes(g);
    let (x, y) = ([g.n, g.h, g.w, g.c], [g.n, g.p, g.q, g.k]);
    let back = kernel.contains("dgrad");
    let (from, to) = if back { (y, x) } else { (x, y) };
    let side = |axis: usize| if back { to[axis + 1].div_ceil(g.stride[axis]) } else { to[axis + 1] };
    let rows = to[0] * side(0) * side(1);
    let classes = if back { g.stride[0] * g.stride[1] } else { 1 };
    let (from, w) = (ramp(device, &from, 1), ramp(device, &[g.k, g.r, g.s, g.c], 2));
    let (bias, out) = (ramp(device, &to[3..], 3), ramp(device, &to, 4));
    let launch = Launch::new(kernel)
        .grid([rows.div_ceil(128) as u32, to[3].div_ceil(cols) as u32, classes as u32])
        .block([256, 1, 1])
        .smem(smem)
        .val(shape)
        .ptr(from.address())
        .ptr(w.address())
        .ptr(bias.address())
        .ptr(out.address())
        .val(0.5f32);
    let every = |axis: usize| (g.stride[axis] / gcd(g.stride[axis], g.dilation[axis])) as i32;
    let launch = if back { launch.val([0u64; 7]).val(every(0)).val(every(1)) } else { launch };
    launch.run(device.gpu().unwrap()).unwrap();
    device.synchronize().unwrap();
    out.to_vec().unwrap()
}

/// All of them on all kinds of windows. TF32 bit for bit where slices hold no zeros, since products and their order are the same;
/// BF16 adds the terms of each sixteen in another order.
#[test]
fn kernels_equal_the_general_ones() {
    const SMEM: u32 = 96 * 1024;
    let device = guarded();
    let p = Conv2dParams::new;
    let shapes = [
        ([2, 7, 5, 64], [64, 3, 3], p(1, 1)),
        ([1, 13, 11, 96], [128, 3, 3], p(1, 1)),
        ([2, 9, 7, 128], [96, 3, 3], p(2, 1)),
        ([1, 9, 10, 64], [160, 3, 3], p(1, 2).dilation(2)),
        ([1, 11, 9, 64], [64, 3, 2], p(2, 2).dilation(2)),
        ([3, 5, 9, 96], [64, 1, 1], p(1, 0)),
        ([2, 6, 7, 64], [96, 1, 1], p(2, 0)),
        ([1, 11, 10, 64], [64, 3, 3], p(3, 2)),
        ([2, 8, 6, 64], [64, 4, 4], p(2, 1)),
        ([1, 3, 4, 64], [64, 3, 3], p(1, 4)),
        ([1, 6, 5, 64], [64, 15, 1], p(1, 7)),
        // Slices with zeros at their end; columns that end within a tile.
        ([1, 7, 9, 116], [144, 3, 3], p(1, 1)),
        ([1, 5, 9, 144], [68, 1, 1], p(1, 0)),
    ];
    let kernels = [
        ("conv2d_fprop_tf32_stages64", 64, "conv2d_fprop_tf32_n64"),
        ("conv2d_fprop_tf32_stages128", 128, "conv2d_fprop_tf32_n64"),
        ("conv2d_fprop_bf16_stages128", 128, "conv2d_fprop_bf16_n64"),
        ("conv2d_dgrad_tf32_stages64", 64, "conv2d_dgrad_tf32_n64"),
        ("conv2d_dgrad_tf32_stages128", 128, "conv2d_dgrad_tf32_n64"),
        ("conv2d_dgrad_bf16_stages128", 128, "conv2d_dgrad_bf16_n64"),
    ];
    for (x, [k, r, s], p) in shapes {
        let g = Geometry::new("conv2d", x.into(), [k, r, s, x[3]].into(), p).unwrap();
        for (kernel, cols, twin) in kernels {
            let got = launched(&device, kernel, &g, cols, SMEM);
            let want = launched(&device, twin, &g, 64, 0);
            assert!(want.iter().any(|v| *v != want[0]));
            let depth = if kernel.contains("dgrad") { g.k } else { g.c };
            if kernel.contains("tf32") && depth % 32 == 0 {
                assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{kernel} {g:?}");
            }
            let top = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (i, (a, b)) in got.iter().zip(&want).enumerate() {
                assert!((a - b).abs() <= 2e-6 * top, "{kernel} {g:?}: {a} {b} at {i}");
            }
        }
    }
}

/// `ConvStats` of `kernels/include/stats_output.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ConvStats {
    /// Bias, residual, y, u, mask, partial sums, mean, variance.
    tensors: [u64; 8],
    arrivals: u64,
    k: i32,
    flags: i32,
}

/// `y`, `u`, mean and variance, and the mask, of a frozen layer with everything, by a kernel with column tiles of `cols`.
fn layer(device: &Device, (kernel, cols, smem): (&'static str, usize, u32), g: &Geometry) -> ([Vec<f32>; 4], Vec<u8>) {
    let shape = sizes(g);
    let (out, rows) = ([g.n, g.p, g.q, g.k], (g.n * g.p * g.q).div_ceil(128));
    let (x, w) = (ramp(device, &[g.n, g.h, g.w, g.c], 1), ramp(device, &[g.k, g.r, g.s, g.c], 2));
    let (bias, residual) = (ramp(device, &[g.k], 3), ramp(device, &out, 4));
    let empty = |shape: &[usize], dtype| Tensor::empty(device, shape, dtype).unwrap();
    let [y, u] = [0; 2].map(|_| empty(&out, DType::F32));
    let [mean, var] = [0; 2].map(|_| empty(&[g.k], DType::F32));
    let (mask, partial) = (empty(&[g.n * g.p, g.q * g.k / 8], DType::U8), empty(&[3, rows, g.k], DType::F32));
    let gpu = device.gpu().unwrap();
    let columns = g.k.div_ceil(cols);
    let arrivals = Tensor::from_slice(device, [columns], &vec![0i32; columns]).unwrap();
    let tensors = [&bias, &residual, &y, &u, &mask, &partial, &mean, &var].map(Tensor::address);
    Launch::new(kernel)
        .grid([rows as u32, columns as u32, 1])
        .block([256, 1, 1])
        .smem(smem)
        .val(shape)
        .ptr(x.address())
        .ptr(w.address())
        .val(ConvStats { tensors, arrivals: arrivals.address(), k: g.k as i32, flags: 63 })
        .behind(&tensors)
        .run(gpu)
        .unwrap();
    device.synchronize().unwrap();
    ([y, u, mean, var].map(|t| t.to_vec().unwrap()), mask.to_vec().unwrap())
}

/// The frozen layer's staged kernels beside the general ones, whose rows of blocks and so statistics are the same: in TF32 bit for bit
/// where slices hold no zeros, and twice the same bits.
#[test]
fn frozen_layers_equal_the_general_ones() {
    let device = guarded();
    let p = Conv2dParams::new;
    let shapes = [
        ([2, 9, 11, 64], [64, 3, 3], p(1, 1)),
        ([3, 8, 7, 96], [136, 3, 3], p(2, 1)),
        ([1, 9, 10, 64], [72, 3, 2], p(1, 2).dilation(2)),
        ([4, 7, 9, 128], [64, 1, 1], p(1, 0)),
        ([1, 1, 1, 64], [64, 1, 1], p(1, 0)),
        ([1, 6, 5, 64], [64, 1, 15], p(1, 7)),
        ([2, 7, 9, 116], [88, 3, 3], p(1, 1)),
        ([1, 5, 9, 60], [64, 3, 3], p(1, 1)),
    ];
    let kernels = [
        ("conv_stats_fprop_tf32_stages64", 64, 72 * 1024, "conv_stats_fprop_tf32_n64"),
        ("conv_stats_fprop_tf32_stages128", 128, 96 * 1024, "conv_stats_fprop_tf32_n64"),
        ("conv_stats_fprop_bf16_stages128", 128, 96 * 1024, "conv_stats_fprop_bf16_n64"),
    ];
    for (x, [k, r, s], p) in shapes {
        let g = Geometry::new("conv_stats", x.into(), [k, r, s, x[3]].into(), p).unwrap();
        for (kernel, cols, smem, twin) in kernels {
            let of = || layer(&device, (kernel, cols, smem), &g);
            let ((got, mask), (want, want_mask)) = (of(), layer(&device, (twin, 64, 0), &g));
            assert!(want.iter().all(|v| v.iter().any(|v| *v != want[0][0])));
            let bits = |v: &[Vec<f32>; 4]| v.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            if kernel.contains("tf32") && g.c % 32 == 0 {
                assert!(bits(&got) == bits(&want) && mask == want_mask, "{kernel} {g:?}");
            }
            let again = of();
            assert!(bits(&got) == bits(&again.0) && mask == again.1, "{kernel} {g:?}");
            for (got, want) in got.iter().zip(&want) {
                let top = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (i, (a, b)) in got.iter().zip(want).enumerate() {
                    assert!((a - b).abs() <= 2e-6 * top, "{kernel} {g:?}: {a} {b} at {i}");
                }
            }
        }
    }
}

/// Parts of the filter's gradient and of the column sums of `dy`, by a kernel with column tiles of `cols`; of values, or of codes of
/// `bits` bits. A single part is added to half of what lies there.
fn filter_gradient(
    device: &Device,
    (kernel, cols, smem): (&'static str, usize, u32),
    g: &Geometry,
    bits: Option<u8>,
    per_part: usize,
) -> [Vec<f32>; 2] {
    let shape = sizes(g);
    let (x, depth) = ([g.n, g.h, g.w, g.c], g.r * g.s * g.c);
    let x = match bits {
        None => ramp(device, &x, 1),
        Some(bits) => {
            let code = |i: usize| (i * 7919 % 1009 % (1 << bits)) as i32 - (1 << (bits - 1));
            let codes: Vec<i8> = (0..g.n * g.h * g.w * g.c).map(|i| code(i) as i8).collect();
            Tensor::from_slice(device, x, &codes).unwrap()
        }
    };
    let [lo, hi] = [-0.7f32, 0.9].map(|v| Tensor::from_slice(device, [1], &[v]).unwrap());
    let dy = ramp(device, &[g.n, g.p, g.q, g.k], 2);
    let parts = (g.n * g.p * g.q).div_ceil(per_part);
    let beta = if parts == 1 { 0.5f32 } else { 0.0 };
    let [dw, columns] = [depth * g.k, g.k].map(|n| match parts {
        1 => ramp(device, &[1, n], 3),
        _ => Tensor::empty(device, [parts, n], DType::F32).unwrap(),
    });
    let launch = Launch::new(kernel)
        .grid([depth.div_ceil(128) as u32, g.k.div_ceil(cols) as u32, parts as u32])
        .block([256, 1, 1])
        .smem(smem)
        .val(shape)
        .ptr(x.address());
    let launch = if bits.is_some() { launch.ptr(lo.address()).ptr(hi.address()) } else { launch };
    let launch = launch.ptr(dy.address()).ptr(dw.address()).ptr(columns.address());
    let launch = if let Some(bits) = bits { launch.val(i32::from(bits)) } else { launch };
    launch.val(per_part as i32).val(beta).run(device.gpu().unwrap()).unwrap();
    device.synchronize().unwrap();
    [dw, columns].map(|t| t.to_vec().unwrap())
}

/// In TF32 bit for bit, of column sums those of tiles as wide as the general kernel's; and twice the same bits.
#[test]
fn filter_gradients_equal_the_general_ones() {
    let device = guarded();
    let p = Conv2dParams::new;
    let shapes = [
        ([2, 7, 5, 64], [64, 3, 3], p(1, 1), 64),
        ([3, 8, 7, 96], [128, 3, 3], p(2, 1), 64),
        ([1, 9, 10, 64], [160, 3, 2], p(1, 2).dilation(2), 192),
        ([4, 7, 9, 128], [64, 1, 1], p(1, 0), 128),
        ([2, 6, 7, 64], [96, 1, 1], p(2, 0), 64),
        ([1, 1, 1, 64], [64, 1, 1], p(1, 0), 64),
        ([1, 3, 4, 64], [68, 3, 3], p(1, 4), 64),
        ([1, 6, 5, 64], [64, 17, 1], p(1, 8), 64),
        // Not in sixteens: values only.
        ([2, 7, 9, 116], [144, 3, 3], p(1, 1), 64),
    ];
    let kernels = [
        ("conv2d_wgrad_tf32_stages64", 64, 72 * 1024, "conv2d_wgrad_tf32_n64", None),
        ("conv2d_wgrad_tf32_stages128", 128, 96 * 1024, "conv2d_wgrad_tf32_n64", None),
        ("conv2d_wgrad_bf16_stages128", 128, 96 * 1024, "conv2d_wgrad_bf16_n64", None),
        ("conv2d_wgrad_codes_tf32_stages64", 64, 48 * 1024, "conv2d_wgrad_codes_tf32_n64", Some(4)),
        ("conv2d_wgrad_codes_tf32_stages128", 128, 80 * 1024, "conv2d_wgrad_codes_tf32_n64", Some(5)),
    ];
    for (x, [k, r, s], p, per_part) in shapes {
        let g = Geometry::new("conv2d", x.into(), [k, r, s, x[3]].into(), p).unwrap();
        for (kernel, cols, smem, twin, bits) in kernels {
            if bits.is_some() && g.c % 16 != 0 {
                continue;
            }
            let of = || filter_gradient(&device, (kernel, cols, smem), &g, bits, per_part);
            let (got, want) = (of(), filter_gradient(&device, (twin, 64, 0), &g, bits, per_part));
            let equal = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            let again = of();
            assert!(got.iter().zip(&again).all(|(a, b)| equal(a, b)), "{kernel} {g:?}");
            if kernel.contains("tf32") {
                assert!(equal(&got[0], &want[0]), "{kernel} {g:?}");
                assert!(cols != 64 || equal(&got[1], &want[1]), "{kernel} {g:?}");
            }
            for (got, want) in got.iter().zip(&want) {
                let top = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(want.iter().any(|v| *v != want[0]) && got.len() == want.len());
                for (i, (a, b)) in got.iter().zip(want).enumerate() {
                    assert!((a - b).abs() <= 2e-6 * top, "{kernel} {g:?}: {a} {b} at {i}");
                }
            }
        }
    }
}

/// Kernels of forward and data gradient by shape, math and alignment.
#[test]
fn shapes_choose_kernels() {
    let Ok(device) = Device::emulator().and_then(|d| d.counting()) else { return };
    let kernels = |x: [usize; 4], k: usize, r: usize, p: Conv2dParams, aligned: bool| {
        let mut tape = Tape::new(&device);
        let values = ramp(&device, &[x.iter().product::<usize>() + 4], 1);
        let x = tape.leaf(values.view(if aligned { 4 } else { 1 }, x).unwrap());
        let w = Var::constant(ramp(&device, &[k, r, r, x.shape()[3]], 2));
        device.gpu().unwrap().take_census();
        let y = conv2d(&mut tape, &x, &w, None, p).unwrap();
        tape.backward_from(&[(&y, ramp(&device, &y.shape(), 3))]).unwrap();
        let names = device.gpu().unwrap().take_census().into_keys();
        let mut names: Vec<&str> = names.filter_map(|n| n.strip_prefix("conv2d_")).collect();
        names.sort_unstable_by_key(|n| n.starts_with("dgrad"));
        names.join(" ")
    };
    let (tf32, bf16) = (Conv2dParams::new(1, 1).math(Math::Tf32), Conv2dParams::new(1, 1).math(Math::Bf16));
    assert_eq!(kernels([1, 5, 7, 64], 64, 3, tf32, true), "fprop_tf32_stages64 dgrad_tf32_stages64");
    assert_eq!(kernels([1, 5, 7, 96], 128, 3, tf32, true), "fprop_tf32_stages64 dgrad_tf32_stages64");
    assert_eq!(kernels([1, 5, 7, 64], 64, 3, tf32, false), "fprop_tf32_any dgrad_tf32_stages64");
    assert_eq!(kernels([1, 5, 7, 60], 64, 3, tf32, true), "fprop_tf32_n64 dgrad_tf32_n64");
    // A third of the last slice would be zeros.
    assert_eq!(kernels([1, 5, 7, 68], 64, 3, tf32, true), "fprop_tf32_n64 dgrad_tf32_stages64");
    assert_eq!(kernels([1, 5, 7, 64], 64, 3, bf16, true), "fprop_bf16_n64 dgrad_bf16_n64");
    // The staged data gradient steps alike along both axes.
    let uneven = kernels([1, 6, 7, 64], 64, 3, tf32.strides([2, 1]), true);
    assert_eq!(uneven, "fprop_tf32_stages64 dgrad_tf32_n64");
    let f32 = Conv2dParams::new(1, 1);
    assert_eq!(kernels([1, 3, 3, 64], 64, 3, f32, true), "fprop_f32_n64 dgrad_f32_n64");
    // Two tiles of 128 columns for each of 34 rows of tiles.
    let wide = [1, 67, 64, 64];
    for (math, forward, back) in [
        (Math::Tf32, "fprop_tf32_stages128", "dgrad_tf32_stages64"),
        (Math::Bf16, "fprop_bf16_stages128", "dgrad_bf16_n64"),
    ] {
        let p = Conv2dParams::new(1, 0).math(math);
        assert_eq!(kernels(wide, 192, 1, p, true), format!("{forward} {back}"));
    }
}

/// Kernels of frozen layers.
#[test]
fn shapes_choose_kernels_of_frozen_layers() {
    let Ok(device) = Device::emulator().and_then(|d| d.counting()) else { return };
    let kernel = |x: [usize; 4], k: usize, r: usize, math: Math| {
        let [x, w] = [x, [k, r, r, x[3]]].map(|s| Var::constant(ramp(&device, &s, 1)));
        let [zero, one] = [0f32, 1.0].map(|v| Tensor::from_slice(&device, [k], &vec![v; k]).unwrap());
        let norm = TuneNorm { gamma: None, beta: None, mean: &zero, var: &one, eps: 0.0, scaled: None };
        let after = After { residual: None, relu: true, stats: true };
        device.gpu().unwrap().take_census();
        let p = Conv2dParams::new(1, 0).math(math);
        conv_stats(&mut Tape::inference(&device), [&x, &w], None, norm, p, after).unwrap();
        let names = device.gpu().unwrap().take_census().into_keys();
        names.filter_map(|n| n.strip_prefix("conv_stats_fprop_")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kernel([1, 5, 7, 64], 64, 3, Math::Tf32), "tf32_stages64");
    assert_eq!(kernel([1, 5, 7, 96], 136, 1, Math::Tf32), "tf32_stages64");
    assert_eq!(kernel([1, 67, 64, 64], 192, 1, Math::Tf32), "tf32_stages128");
    assert_eq!(kernel([1, 67, 64, 64], 192, 1, Math::Bf16), "bf16_stages128");
    assert_eq!(kernel([1, 5, 7, 64], 56, 3, Math::Tf32), "tf32_n64");
    assert_eq!(kernel([1, 5, 7, 68], 64, 3, Math::Tf32), "tf32_n64");
    assert_eq!(kernel([1, 5, 7, 64], 64, 3, Math::Bf16), "bf16_n64");
    assert_eq!(kernel([1, 5, 7, 64], 64, 3, Math::F32), "f32_n64");
}

/// Kernels of filter gradients; of codes: `kernels/step.plan`.
#[test]
fn shapes_choose_kernels_of_filter_gradients() {
    let Ok(device) = Device::emulator().and_then(|d| d.counting()) else { return };
    let kernel = |x: [usize; 4], k: usize, r: usize, math: Math, aligned: bool| {
        let mut tape = Tape::new(&device);
        let values = ramp(&device, &[x.iter().product::<usize>() + 4], 1);
        let x = Var::constant(values.view(if aligned { 4 } else { 1 }, x).unwrap());
        let w = tape.leaf(ramp(&device, &[k, r, r, x.shape()[3]], 2));
        let y = conv2d(&mut tape, &x, &w, None, Conv2dParams::new(1, 1).math(math)).unwrap();
        device.gpu().unwrap().take_census();
        tape.backward_from(&[(&y, ramp(&device, &y.shape(), 3))]).unwrap();
        let names = device.gpu().unwrap().take_census().into_keys();
        names.filter_map(|n| n.strip_prefix("conv2d_wgrad_")).collect::<Vec<_>>().join(" ")
    };
    let few = [1, 5, 7, 64];
    assert_eq!(kernel(few, 64, 3, Math::Tf32, true), "tf32_stages64");
    assert_eq!(kernel(few, 68, 3, Math::Tf32, true), "tf32_stages128");
    assert_eq!(kernel([1, 5, 7, 68], 64, 1, Math::Tf32, true), "tf32_stages64");
    assert_eq!(kernel([1, 5, 7, 60], 64, 3, Math::Tf32, true), "tf32_n64");
    assert_eq!(kernel(few, 60, 3, Math::Tf32, true), "tf32_n64");
    assert_eq!(kernel(few, 64, 3, Math::Tf32, false), "tf32_any");
    assert_eq!(kernel(few, 64, 3, Math::Bf16, true), "bf16_n64");
    assert_eq!(kernel(few, 128, 1, Math::Bf16, true), "bf16_stages128");
    assert_eq!(kernel(few, 128, 1, Math::F32, true), "f32_n64");
}
