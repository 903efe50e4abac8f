//! The built-in data set: 32x32 RGB images of ten silhouettes, generated from a seed. Ours; no files, no licence.
//!
//! The class is the shape alone: position, scale, rotation, shear, colours, fill, background, clutter, an occluding bar,
//! lighting and noise are drawn independently of it. Only +, -, *, / and square roots are used, so that every
//! platform makes the same bytes.

use super::Dataset;
use rayon::prelude::*;

const SIDE: usize = 32;

/// Names of the classes, in label order.
pub const CLASSES: [&str; 10] =
    ["disc", "ring", "square", "triangle", "plus", "star", "crescent", "half-disc", "tee", "bars"];

/// Disjoint parts of the set: their images come from different random streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Test,
}

impl Split {
    /// Images that `builtin:train` and `builtin:test` hold.
    pub const fn default_size(self) -> usize {
        match self {
            Self::Train => 50_000,
            Self::Test => 10_000,
        }
    }
    const fn seed(self) -> u64 {
        match self {
            Self::Train => 0x7261_696e_0000_0001,
            Self::Test => 0x7465_7374_0000_0002,
        }
    }
}

/// The first `n` images of a split, as u8 NHWC; image `i` does not depend on `n` and has label `i % 10`.
pub fn generate(split: Split, n: usize) -> Dataset {
    let size = SIDE * SIDE * 3;
    let mut images = vec![0; n * size];
    images.par_chunks_exact_mut(size).enumerate().for_each(|(i, out)| {
        // Mixing the seed first keeps the streams of neighbouring images and of the two splits far apart.
        let mut random = SplitMix(SplitMix(split.seed()).next() ^ SplitMix(i as u64).next());
        render(i % CLASSES.len(), &mut random, out);
    });
    let labels = (0..n).map(|i| (i % CLASSES.len()) as u32).collect();
    let name = format!("builtin {split:?}").to_lowercase();
    Dataset { name, images, labels, n, h: SIDE, w: SIDE, c: 3, classes: CLASSES.len() }
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in `[lo, hi)`.
    fn range(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * ((self.next() >> 40) as f32 / (1u32 << 24) as f32)
    }
    fn below(&mut self, n: u64) -> u64 {
        // The bias of a modulus of 64 bits is far below anything that shows.
        self.next() % n
    }
    fn chance(&mut self, p: f32) -> bool {
        self.range(0.0, 1.0) < p
    }
    /// Uniform on the unit circle, by rejection: no sine, whose last bit differs between platforms.
    fn direction(&mut self) -> [f32; 2] {
        loop {
            let (x, y) = (self.range(-1.0, 1.0), self.range(-1.0, 1.0));
            let r2 = x * x + y * y;
            if (0.01..=1.0).contains(&r2) {
                let r = r2.sqrt();
                return [x / r, y / r];
            }
        }
    }
    fn colour(&mut self) -> [f32; 3] {
        std::array::from_fn(|_| self.range(20.0, 235.0))
    }
}

/// Where a shape sits: image coordinates to the shape's unit coordinates.
struct Placement {
    centre: [f32; 2],
    /// Rows of the 2x2 map.
    map: [[f32; 2]; 2],
    /// Pixels per unit, smallest direction: turns unit distances into pixels for the anti-aliasing.
    pixels: f32,
    /// Radius in pixels beyond which nothing is drawn.
    reach: f32,
}

impl Placement {
    fn draw(random: &mut SplitMix, radius: f32, stretch: f32) -> Self {
        let [c, s] = random.direction();
        let (a, shear) = (random.range(1.0 / stretch, stretch), random.range(1.0 - stretch, stretch - 1.0));
        let (rx, ry) = (radius * a, radius / a);
        let margin = radius * 0.85;
        let at = |random: &mut SplitMix| random.range(margin, SIDE as f32 - margin);
        let centre = [at(random), at(random)];
        let map = [[(c + shear * s) / rx, (s - shear * c) / rx], [-s / ry, c / ry]];
        Self { centre, map, pixels: rx.min(ry), reach: 1.6 * rx.max(ry) + 1.0 }
    }
    fn local(&self, x: f32, y: f32) -> [f32; 2] {
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        [self.map[0][0] * dx + self.map[0][1] * dy, self.map[1][0] * dx + self.map[1][1] * dy]
    }
}

fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// Distance to a box around (cx, cy), negative inside (exact inside, a lower bound at corners outside).
fn boxed(p: [f32; 2], cx: f32, cy: f32, hx: f32, hy: f32) -> f32 {
    ((p[0] - cx).abs() - hx).max((p[1] - cy).abs() - hy)
}

/// Signed distance to a polygon: nearest edge, sign by the crossing number.
fn polygon(p: [f32; 2], corners: &[[f32; 2]]) -> f32 {
    let mut nearest = f32::MAX;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let (ex, ey) = (previous[0] - corner[0], previous[1] - corner[1]);
        let (wx, wy) = (p[0] - corner[0], p[1] - corner[1]);
        let t = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        let (dx, dy) = (wx - ex * t, wy - ey * t);
        nearest = nearest.min(dx * dx + dy * dy);
        if (corner[1] > p[1]) != (previous[1] > p[1]) && p[0] < ex * (p[1] - corner[1]) / ey + corner[0] {
            inside = !inside;
        }
        previous = corner;
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

const TRIANGLE: [[f32; 2]; 3] = [[0.0, -1.05], [0.95, 0.7], [-0.95, 0.7]];
/// Five points at radius 1.1, five notches at 0.45.
const STAR: [[f32; 2]; 10] = [
    [0.0, -1.1],
    [0.2645, -0.3641],
    [1.0462, -0.3399],
    [0.428, 0.1391],
    [0.6466, 0.8899],
    [0.0, 0.45],
    [-0.6466, 0.8899],
    [-0.428, 0.1391],
    [-1.0462, -0.3399],
    [-0.2645, -0.3641],
];

/// Signed distance of unit coordinates to the silhouette of a class.
fn distance(class: usize, p: [f32; 2]) -> f32 {
    let [x, y] = p;
    match class {
        0 => length(x, y) - 0.88,
        1 => (length(x, y) - 0.68).abs() - 0.24,
        2 => boxed(p, 0.0, 0.0, 0.78, 0.78),
        3 => polygon(p, &TRIANGLE),
        4 => boxed(p, 0.0, 0.0, 0.98, 0.3).min(boxed(p, 0.0, 0.0, 0.3, 0.98)),
        5 => polygon(p, &STAR),
        6 => (length(x, y) - 0.98).max(0.78 - length(x - 0.5, y)),
        7 => (length(x + 0.4, y) - 1.0).max(-0.4 - x),
        8 => boxed(p, 0.0, -0.65, 0.95, 0.3).min(boxed(p, 0.0, 0.2, 0.3, 0.8)),
        _ => boxed(p, 0.0, -0.52, 0.95, 0.27).min(boxed(p, 0.0, 0.52, 0.95, 0.27)),
    }
}

/// Stripes, or nothing: a wave of period `1 / frequency` across the image, between -1 and 1.
struct Stripes {
    direction: [f32; 2],
    phase: f32,
    amplitude: f32,
}

impl Stripes {
    fn draw(random: &mut SplitMix, amplitude: f32) -> Self {
        let [x, y] = random.direction();
        let f = random.range(0.08, 0.3);
        Self { direction: [x * f, y * f], phase: random.range(0.0, 1.0), amplitude }
    }
    fn at(&self, x: f32, y: f32) -> f32 {
        let t = self.direction[0] * x + self.direction[1] * y + self.phase;
        self.amplitude * (4.0 * (t - t.floor() - 0.5).abs() - 1.0)
    }
}

/// Paints everything within `reach` of the centre that `inside` covers.
fn paint(
    pixels: &mut [[f32; 3]],
    at: &Placement,
    distance: impl Fn([f32; 2]) -> f32,
    colour: impl Fn(f32, f32) -> [f32; 3],
) {
    let bound = |c: f32| {
        let (lo, hi) = ((c - at.reach).max(0.0) as usize, (c + at.reach + 1.0).max(0.0) as usize);
        lo.min(SIDE)..hi.min(SIDE)
    };
    for y in bound(at.centre[1]) {
        for x in bound(at.centre[0]) {
            let (fx, fy) = (x as f32 + 0.5, y as f32 + 0.5);
            let cover = (0.5 - distance(at.local(fx, fy)) * at.pixels).clamp(0.0, 1.0);
            if cover > 0.0 {
                let paint = colour(fx, fy);
                for (v, c) in pixels[y * SIDE + x].iter_mut().zip(paint) {
                    *v += cover * (c - *v);
                }
            }
        }
    }
}

/// One image into `out`, NHWC bytes.
fn render(class: usize, random: &mut SplitMix, out: &mut [u8]) {
    let base = random.colour();
    let tint: [f32; 3] = std::array::from_fn(|_| random.range(-28.0, 28.0));
    let weave_size = random.range(0.0, 22.0);
    let weave = Stripes::draw(random, weave_size);
    let [gx, gy] = random.direction();
    let mut pixels = [[0.0f32; 3]; SIDE * SIDE];
    for (i, pixel) in pixels.iter_mut().enumerate() {
        let (x, y) = ((i % SIDE) as f32 + 0.5, (i / SIDE) as f32 + 0.5);
        let (slope, wave) = ((gx * (x - 16.0) + gy * (y - 16.0)) / 16.0, weave.at(x, y));
        *pixel = std::array::from_fn(|c| base[c] + slope * tint[c] + wave);
    }

    // Clutter: small discs and short bars of any colour, behind the shape.
    for _ in 0..2 + random.below(5) {
        let radius = random.range(1.2, 3.2);
        let at = Placement::draw(random, radius, 1.3);
        let colour = random.colour();
        let bar = random.chance(0.5);
        paint(&mut pixels, &at, |p| if bar { boxed(p, 0.0, 0.0, 1.3, 0.35) } else { distance(0, p) }, |_, _| colour);
    }

    // The shape, in a colour that can be told from the background, lighter or darker alike.
    let colour = loop {
        let c = random.colour();
        let difference: f32 = c.iter().zip(&base).map(|(a, b)| (a - b).abs()).sum();
        if difference > 95.0 {
            break c;
        }
    };
    let radius = random.range(5.5, 11.5);
    let at = Placement::draw(random, radius, 1.25);
    let fill_size = if random.chance(0.5) { random.range(5.0, 30.0) } else { 0.0 };
    let fill = Stripes::draw(random, fill_size);
    paint(&mut pixels, &at, |p| distance(class, p), |x, y| colour.map(|c| c + fill.at(x, y)));

    // An occluding bar over part of some images.
    if random.chance(0.35) {
        let length = random.range(5.0, 9.0);
        let bar = Placement::draw(random, length, 1.1);
        let width = random.range(0.12, 0.22);
        let colour = random.colour();
        paint(&mut pixels, &bar, |p| boxed(p, 0.0, 0.0, 1.3, width), |_, _| colour);
    }

    // Light from one side, then noise (sum of two uniforms) per channel.
    let [lx, ly] = random.direction();
    let (light, noise) = (random.range(0.0, 0.3), random.range(4.0, 26.0));
    for (i, (pixel, bytes)) in pixels.iter().zip(out.chunks_exact_mut(3)).enumerate() {
        let (x, y) = ((i % SIDE) as f32 - 15.5, (i / SIDE) as f32 - 15.5);
        let gain = 1.0 + light * (lx * x + ly * y) / 16.0;
        let mut bits = random.next();
        for (v, byte) in pixel.iter().zip(bytes) {
            let sum = (bits & 0x3ff) + ((bits >> 10) & 0x3ff);
            bits >>= 20;
            *byte = (v * gain + noise * (sum as f32 / 1023.0 - 1.0)).round().clamp(0.0, 255.0) as u8;
        }
    }
}
