use super::*;
use crate::device::Device;

fn crop(x: &[f32], shape: [usize; 4], b: [f32; 4], flip: i32, out: [usize; 2]) -> Result<Vec<f32>> {
    let d = Device::cpu();
    let boxes = Tensor::from_slice(&d, [1, 4], &b)?;
    let flips = Tensor::from_slice(&d, [1], &[flip])?;
    let x = Var::constant(Tensor::from_slice(&d, shape, x)?);
    crop_flip(&mut Tape::inference(&d), &x, &boxes, &flips, out)?.value.to_vec()
}

#[test]
fn the_whole_image_is_itself_and_flips_are_mirrors() {
    let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let whole = [0.0, 0.0, 3.0, 4.0];
    assert_eq!(crop(&x, [1, 3, 4, 2], whole, 0, [3, 4]).unwrap(), x);
    let mirrored = crop(&x, [1, 3, 4, 2], whole, 1, [3, 4]).unwrap();
    for (row, line) in mirrored.chunks(8).enumerate() {
        for (col, pixel) in line.chunks(2).enumerate() {
            assert_eq!(pixel, &x[(row * 4 + 3 - col) * 2..][..2]);
        }
    }
}

/// Bilinear resizing by hand: 2 pixels to 4 are at -1/4, 1/4, 3/4, 5/4, the outer ones clamped.
#[test]
fn samples_lie_where_they_should() {
    assert_eq!(crop(&[0.0, 8.0], [1, 1, 2, 1], [0.0, 0.0, 1.0, 2.0], 0, [1, 4]).unwrap(), [0.0, 2.0, 6.0, 8.0]);
    // The right half of four pixels, each sample between two.
    let x = [0.0, 10.0, 20.0, 30.0];
    assert_eq!(crop(&x, [1, 1, 4, 1], [0.0, 1.5, 1.0, 2.0], 0, [1, 2]).unwrap(), [15.0, 25.0]);
    assert_eq!(crop(&x, [1, 1, 4, 1], [0.0, 1.5, 1.0, 2.0], 1, [1, 2]).unwrap(), [25.0, 15.0]);
}

#[test]
fn bad_boxes_are_errors() {
    for b in [[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, -1.0], [f32::NAN, 0.0, 1.0, 1.0], [0.0, f32::INFINITY, 1.0, 1.0]] {
        let e = crop(&[0.0; 4], [1, 2, 2, 1], b, 0, [2, 2]).unwrap_err().to_string();
        assert!(e.contains("box 0"), "{e}");
    }
    assert!(crop(&[0.0; 4], [1, 2, 2, 1], [0.0, 0.0, 1.0, 1.0], 0, [0, 2]).is_err());
}

#[test]
fn drawn_boxes_lie_in_the_image_and_have_the_area() {
    let d = Device::cpu();
    let (n, h, w) = (4000, 32, 48);
    let (boxes, flips) = draw_crops(&d, [n, h, w], CropSpec::new([0.5, 1.0]), 3, 7).unwrap();
    let (mut area, mut places) = (0.0, std::collections::BTreeSet::new());
    for b in boxes.to_vec::<f32>().unwrap().chunks(4) {
        assert!(b.iter().all(|v| v.fract() == 0.0 && *v >= 0.0), "{b:?}");
        assert!(b[0] + b[2] <= h as f32 && b[1] + b[3] <= w as f32, "{b:?}");
        let share = b[2] * b[3] / (h * w) as f32;
        // Rounding moves a side by half a pixel at most.
        assert!((0.46..=1.0).contains(&share), "{b:?}");
        assert!((0.7..=1.4).contains(&(b[3] / b[2])) || b[2] == h as f32, "{b:?}");
        area += f64::from(share) / n as f64;
        places.insert((b[0] as i32, b[1] as i32));
    }
    assert!((0.6..0.8).contains(&area) && places.len() > 50, "{area} {}", places.len());
    let flipped = flips.to_vec::<i32>().unwrap().iter().filter(|f| **f == 1).count();
    assert!((1840..2160).contains(&flipped), "{flipped}");
}

#[test]
fn drawing_depends_on_image_seed_and_stream_alone() {
    let d = Device::cpu();
    let draw = |n, seed, stream| {
        let (boxes, flips) = draw_crops(&d, [n, 32, 32], CropSpec::new([0.8, 1.0]), seed, stream).unwrap();
        (boxes.to_vec::<f32>().unwrap(), flips.to_vec::<i32>().unwrap())
    };
    let (long, short) = (draw(50, 1, 2), draw(7, 1, 2));
    assert_eq!((&long.0[..28], &long.1[..7]), (&short.0[..], &short.1[..]));
    assert_ne!(draw(50, 1, 3).0, long.0);
    assert_ne!(draw(50, 2, 2).0, long.0);
    let none = CropSpec { flip: 0.0, ..CropSpec::new([1.0, 1.0]) };
    assert!(draw_crops(&d, [9, 4, 4], none, 1, 1).unwrap().1.to_vec::<i32>().unwrap().iter().all(|f| *f == 0));
    for scale in [[0.0, 1.0], [0.9, 0.8], [0.5, 1.5], [f32::NAN, 1.0]] {
        assert!(draw_crops(&d, [1, 4, 4], CropSpec::new(scale), 1, 1).is_err());
    }
}
