//! Fragments lie where `kernels/include/mma.cuh` says: one-hot matrices through every tensor core product, numbered ones
//! through ldmatrix. The same code on the emulator and, with GHOSTBIT_TEST_DRIVER=nvidia, on a GPU, so that the emulator's
//! map of lanes is the hardware's.

use ghostbit::device::{Device, Gpu, Launch, driver};
use ghostbit::tensor::Tensor;

/// The driver under test; `None`, with a word on it, where there is none.
fn device() -> Option<Device> {
    if std::env::var("GHOSTBIT_TEST_DRIVER").is_ok_and(|v| v == "nvidia") {
        return Some(Device::cuda_guarded().unwrap());
    }
    if driver::EMULATOR.is_empty() {
        println!("skipped: no emulator in this build, and no GPU asked for (GHOSTBIT_TEST_DRIVER=nvidia)");
        return None;
    }
    Some(Device::emulator_guarded().unwrap())
}

fn upload(device: &Device, bits: &[u32]) -> Tensor {
    Tensor::from_slice(device, [bits.len()], bytemuck::cast_slice::<u32, i32>(bits)).unwrap()
}

fn download(t: &Tensor) -> Vec<u32> {
    bytemuck::cast_slice::<i32, u32>(&t.to_vec::<i32>().unwrap()).to_vec()
}

fn gpu(t: &Tensor) -> &Gpu {
    t.gpu().expect("both drivers are CUDA to us")
}

/// Where element `e` of register `r` of lane `l` lies in its matrix, as (row, column).
type Map = fn(per: usize, l: usize, r: usize, e: usize) -> (usize, usize);

/// The maps that mma.cuh documents; `per` elements in a register.
fn a_map(per: usize, l: usize, r: usize, e: usize) -> (usize, usize) {
    (l / 4 + 8 * (r % 2), per * (l % 4) + e + 4 * per * (r / 2))
}
fn b_map(per: usize, l: usize, r: usize, e: usize) -> (usize, usize) {
    (per * (l % 4) + e + 4 * per * r, l / 4)
}
fn d_map(_: usize, l: usize, r: usize, _: usize) -> (usize, usize) {
    (l / 4 + 8 * (r / 2), 2 * (l % 4) + r % 2)
}

/// One tensor core product, m16n8k(8 per).
struct Product {
    kernel: &'static str,
    /// Elements in a register.
    per: usize,
    one: u32,
    /// A number as the accumulator's bits.
    number: fn(usize) -> u32,
}

const PRODUCTS: [Product; 3] = [
    Product { kernel: "selftest_mma_bf16", per: 2, one: 0x3f80, number: |i| (i as f32).to_bits() },
    Product { kernel: "selftest_mma_tf32", per: 1, one: 0x3f80_0000, number: |i| (i as f32).to_bits() },
    Product { kernel: "selftest_mma_s8", per: 4, one: 1, number: |i| i as u32 },
];

impl Product {
    /// Registers `[lane][register]` of a matrix that is one at `hot` and zero elsewhere.
    fn one_hot(&self, registers: usize, map: Map, hot: (usize, usize)) -> Vec<u32> {
        let element = |l, r, e| if map(self.per, l, r, e) == hot { self.one << (e * 32 / self.per) } else { 0 };
        let register = |i: usize| (0..self.per).fold(0, |bits, e| bits | element(i / registers, i % registers, e));
        (0..32 * registers).map(register).collect()
    }

    /// Multiplies every one-hot A with every one-hot B, onto accumulators that are numbered; returns how many products
    /// were not what A[row][k] B[k'][n] is: one at [row][n] if k = k', else nothing.
    fn wrong(&self, device: &Device, [a_map, b_map, d_map]: [Map; 3]) -> usize {
        let depth = 8 * self.per;
        let places = |rows: usize, columns: usize| (0..rows * columns).map(move |i| (i / columns, i % columns));
        let b: Vec<u32> = places(depth, 8).flat_map(|hot| self.one_hot(2, b_map, hot)).collect();
        let b = upload(device, &b);
        let blocks = depth * 8;
        let start: Vec<u32> = (0..128).map(|i| (self.number)(i + 1)).collect();
        let mut wrong = 0;
        for (row, k) in places(16, depth) {
            let a = upload(device, &self.one_hot(4, a_map, (row, k)).repeat(blocks));
            let d = upload(device, &start.repeat(blocks));
            let launch = Launch::new(self.kernel).grid([blocks as u32, 1, 1]).block([32, 1, 1]);
            launch.ptr(a.address()).ptr(b.address()).ptr(d.address()).run(gpu(&d)).unwrap();
            for ((other, n), d) in places(depth, 8).zip(download(&d).chunks(128)) {
                let right = |i: usize| {
                    let hit = other == k && d_map(self.per, i / 4, i % 4, 0) == (row, n);
                    d[i] == (self.number)(i + 1 + usize::from(hit))
                };
                wrong += usize::from(!(0..128).all(right));
            }
        }
        device.synchronize().unwrap();
        wrong
    }
}

#[test]
fn every_product_of_one_hot_matrices_is_one_element() {
    let Some(device) = device() else { return };
    for p in PRODUCTS {
        assert_eq!(p.wrong(&device, [a_map, b_map, d_map]), 0, "{}", p.kernel);
    }
}

/// The test above tells maps apart: the register orders that one is tempted to write fail it.
#[test]
fn a_wrong_map_is_noticed() {
    let Some(device) = device() else { return };
    let a_swapped: Map = |per, l, r, e| a_map(per, l, [0, 2, 1, 3][r], e);
    let b_swapped: Map = |per, l, r, e| b_map(per, l, 1 - r, e);
    let d_swapped: Map = |per, l, r, e| d_map(per, l, r ^ 1, e);
    let tf32 = &PRODUCTS[1];
    // A: half of the elements lie elsewhere, in another row or at another k. B: at another k. D: in another column.
    assert!(tf32.wrong(&device, [a_swapped, b_map, d_map]) > 0);
    assert!(tf32.wrong(&device, [a_map, b_swapped, d_map]) > 0);
    assert_eq!(tf32.wrong(&device, [a_map, b_map, d_swapped]), 16 * 8 * 8, "every product with k = k'");
}

#[test]
fn ldmatrix_delivers_every_element_as_documented() {
    let Some(device) = device() else { return };
    // Element i of the 32 rows of 8 holds i.
    let x = upload(&device, &(0..128u32).map(|i| (2 * i) | (2 * i + 1) << 16).collect::<Vec<u32>>());
    for (kernel, n, trans) in [
        ("selftest_ldmatrix_x4", 4, false),
        ("selftest_ldmatrix_x4_trans", 4, true),
        ("selftest_ldmatrix_x2", 2, false),
        ("selftest_ldmatrix_x2_trans", 2, true),
    ] {
        let r = upload(&device, &vec![u32::MAX; 32 * n]);
        Launch::new(kernel).block([32, 1, 1]).ptr(x.address()).ptr(r.address()).run(gpu(&r)).unwrap();
        let r = download(&r);
        for (l, i) in (0..32).flat_map(|l| (0..n).map(move |i| (l, i))) {
            let (g, q) = (l / 4, l % 4);
            let at = |row: usize, col: usize| (64 * i + 8 * row + col) as u32;
            let (low, high) = if trans { (at(2 * q, g), at(2 * q + 1, g)) } else { (at(g, 2 * q), at(g, 2 * q + 1)) };
            assert_eq!(r[l * n + i], low | high << 16, "{kernel}: lane {l} register {i}");
        }
    }
    device.synchronize().unwrap();
}

/// A warpgroup's products, element by element: matrices of bytes of both signs, whose products of any two rows differ.
#[test]
fn products_of_warpgroups_lie_as_documented() {
    let Some(device) = device() else { return };
    if !device.gpu().unwrap().has_wgmma() {
        println!("skipped: not a device of sm_90");
        return;
    }
    let bytes = |rows: usize, seed: usize| -> Vec<i8> {
        (0..rows * 128).map(|i| ((i * 7919 + i / 128 * 31 + seed) % 251) as u8 as i8).collect()
    };
    for (kernel, registers) in [("selftest_wgmma_s8_n80", 40), ("selftest_wgmma_s8_n144", 72)] {
        let n = 2 * registers;
        let (a, b) = (bytes(64, 3), bytes(n, 5));
        let up = |v: &[i8]| upload(&device, bytemuck::cast_slice::<u8, u32>(bytemuck::cast_slice(v)));
        for step in 0..4 {
            let start: Vec<u32> = (0..128 * registers as u32).collect();
            let (a_there, b_there, d) = (up(&a), up(&b), upload(&device, &start));
            let launch = Launch::new(kernel).block([128, 1, 1]).smem(1024 + (64 + n as u32) * 128);
            let launch = launch.ptr(a_there.address()).ptr(b_there.address()).ptr(d.address()).val(step);
            launch.run(gpu(&d)).unwrap();
            for (i, got) in download(&d).into_iter().enumerate() {
                let (thread, register) = (i / registers, i % registers);
                let (warp, g, q) = (thread / 32, thread % 32 / 4, thread % 4);
                let (row, col) = (16 * warp + g + register % 4 / 2 * 8, register / 4 * 8 + 2 * q + register % 2);
                let depth = step as usize * 32..step as usize * 32 + 32;
                let dot: i32 = depth.map(|k| i32::from(a[row * 128 + k]) * i32::from(b[col * 128 + k])).sum();
                assert_eq!(got as i32, i as i32 + dot, "{kernel}: thread {thread} register {register}, step {step}");
            }
        }
    }
    device.synchronize().unwrap();
}
