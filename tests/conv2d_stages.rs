//! Kernels for many channels (`kernels/conv2d_stages.cu`) beside the general ones that compute the same, and which shapes take them.

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::{Device, Launch};
use ghostbit::ops::conv2d::{Conv2dParams, Geometry, Math, conv2d};
use ghostbit::tensor::Tensor;

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

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `0.5 * out + bias + product` by a kernel with column tiles of `cols` and `smem` bytes of dynamic shared memory.
fn launched(device: &Device, kernel: &'static str, g: &Geometry, cols: usize, smem: u32) -> Vec<f32> {
    let shape = [g.n, g.h, g.w, g.c, g.k, g.r, g.s, g.p, g.q, g.stride, g.pad, g.dilation].map(|v| v as i32);
    let (x, y) = ([g.n, g.h, g.w, g.c], [g.n, g.p, g.q, g.k]);
    let back = kernel.contains("dgrad");
    let (from, to) = if back { (y, x) } else { (x, y) };
    let side = |len: usize| if back { len.div_ceil(g.stride) } else { len };
    let rows = to[0] * side(to[1]) * side(to[2]);
    let classes = if back { g.stride * g.stride } else { 1 };
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
    let launch = if back { launch.val((g.stride / gcd(g.stride, g.dilation)) as i32) } else { launch };
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
