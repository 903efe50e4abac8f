//! Convolutions of codes by products of warpgroups (`kernels/include/conv_int_wgmma.cuh`) beside the kernels that compute the same by
//! products of warps, and which shapes take them.

use ghostbit::device::{Device, Launch};
use ghostbit::ops::conv2d::{Conv2dParams, Geometry};
use ghostbit::tensor::Tensor;

/// A GPU if the tests run on one, else the emulator.
fn guarded() -> Device {
    let nvidia = std::env::var("GHOSTBIT_TEST_DRIVER").is_ok_and(|v| v == "nvidia");
    if nvidia { Device::cuda_guarded() } else { Device::emulator_guarded() }.unwrap()
}

/// `Quantizers` of `kernels/include/int_value.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Quantizers {
    ranges: [u64; 4],
    bits: [i32; 2],
}

fn codes(device: &Device, n: usize, seed: usize, bits: u32) -> Tensor {
    let span = 1usize << bits;
    let v: Vec<u8> =
        (0..n).map(|i| ((i * 7919 + i / 13 + seed) % span) as i32 - (span / 2) as i32).map(|q| q as i8 as u8).collect();
    Tensor::from_slice(device, [n], &v).unwrap()
}

fn ramp(device: &Device, n: usize, first: f32, step: f32) -> Tensor {
    Tensor::from_slice(device, [n], &(0..n).map(|i| first + step * i as f32).collect::<Vec<_>>()).unwrap()
}

/// Column tile and bytes of dynamic shared memory of a kernel.
fn tile(kernel: &str) -> (usize, u32) {
    match kernel {
        _ if kernel.ends_with("wgmma64") => (64, 1024 + 4 * (128 + 80) * 128),
        _ if kernel.ends_with("wgmma128") => (128, 1024 + 3 * (128 + 144) * 128),
        _ => (64, 0),
    }
}

/// `ConvShape` of the kernels.
fn sizes(g: &Geometry) -> [i32; 15] {
    let ([top, left, ..], [down, across], [apart, beside]) = (g.pad, g.stride, g.dilation);
    [g.n, g.h, g.w, g.c, g.k, g.r, g.s, g.p, g.q, down, across, top, left, apart, beside].map(|v| v as i32)
}

fn launched(device: &Device, kernel: &'static str, g: &Geometry, bits: [u32; 2]) -> Vec<f32> {
    let shape = sizes(g);
    let (cols, smem) = tile(kernel);
    let x = codes(device, g.n * g.h * g.w * g.c, 1, bits[0]);
    let w = codes(device, g.k * g.r * g.s * g.c, 2, bits[1]);
    // Zero points of all sizes, of both signs.
    let ranges = [
        ramp(device, 1, -0.3, 0.0),
        ramp(device, 1, 1.1, 0.0),
        ramp(device, g.k, -1.0, 0.013),
        ramp(device, g.k, 0.2, 0.02),
    ];
    let bias = ramp(device, g.k, -0.5, 0.01);
    let y = ramp(device, g.n * g.p * g.q * g.k, 7.0, 0.0);
    let q = Quantizers { ranges: [0, 1, 2, 3].map(|i: usize| ranges[i].address()), bits: bits.map(|b| b as i32) };
    Launch::new(kernel)
        .grid([(g.n * g.p * g.q).div_ceil(128) as u32, g.k.div_ceil(cols) as u32, 1])
        .block([256, 1, 1])
        .smem(smem)
        .val(shape)
        .ptr(x.address())
        .ptr(w.address())
        .val(q)
        .ptr(0)
        .ptr(bias.address())
        .ptr(y.address())
        .run(device.gpu().unwrap())
        .unwrap();
    device.synchronize().unwrap();
    y.to_vec().unwrap()
}

/// Bit for bit: the sums are integers, and what is made of them is the same code.
#[test]
fn kernels_equal_those_of_warps() {
    let device = guarded();
    if !device.gpu().unwrap().has_wgmma() {
        println!("skipped: not a device of sm_90");
        return;
    }
    let p = Conv2dParams::new;
    let shapes = [
        ([2, 7, 5, 64], [64, 3, 3], p(1, 1)),
        ([1, 13, 11, 96], [128, 3, 3], p(1, 1)),
        ([2, 9, 7, 128], [96, 3, 3], p(2, 1)),
        ([1, 9, 10, 64], [160, 3, 3], p(1, 2).dilation(2)),
        ([1, 11, 9, 80], [64, 3, 2], p(2, 2).dilation(2)),
        ([3, 5, 9, 256], [72, 1, 1], p(1, 0)),
        ([2, 6, 7, 64], [96, 1, 1], p(2, 0)),
        ([2, 8, 6, 64], [64, 4, 4], p(2, 1)),
        ([1, 3, 4, 64], [64, 3, 3], p(1, 4)),
        ([1, 17, 5, 64], [64, 15, 1], p(1, 7)),
        ([1, 5, 5, 176], [130, 3, 3], p(1, 1)),
    ];
    for (x, [k, r, s], p) in shapes {
        let g = Geometry::new("conv2d_int", x.into(), [k, r, s, x[3]].into(), p).unwrap();
        for bits in [[4, 4], [8, 8], [3, 7]] {
            let want = launched(&device, "conv2d_int_n64", &g, bits);
            assert!(want.iter().any(|v| *v != want[0]));
            for kernel in ["conv2d_int_wgmma64", "conv2d_int_wgmma128"] {
                let got = launched(&device, kernel, &g, bits);
                let differ = got.iter().zip(&want).position(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(differ, None, "{kernel} {bits:?} {g:?}");
            }
        }
    }
}
