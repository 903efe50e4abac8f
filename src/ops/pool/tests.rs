//! Windows at the edge, against values of ONNX Runtime.

use super::{PoolParams, avg_pool, max_pool};
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::tensor::Tensor;

/// 1 to 30 in five rows of six.
fn image() -> (Tape, Var) {
    let device = Device::cpu();
    let values: Vec<f32> = (1..=30).map(|v| v as f32).collect();
    let x = Tensor::from_slice(&device, [1, 5, 6, 1], &values).unwrap();
    (Tape::inference(&device), Var::constant(x))
}

fn close(y: &Var, shape: [usize; 4], want: &[f32]) {
    assert_eq!(&y.shape()[..], &shape);
    for (got, want) in y.value.to_vec::<f32>().unwrap().iter().zip(want) {
        assert!((got - want).abs() <= 1e-5 * want.abs(), "{got} instead of {want}");
    }
}

#[test]
fn averages_divide_as_onnx_runtime_does() {
    let (mut tape, x) = image();
    let p = PoolParams { ceil: true, ..PoolParams::square(3, 3, 1) };
    close(&avg_pool(&mut tape, &x, p).unwrap(), [1, 2, 3, 1], &[2.0, 4.666_666_5, 3.0, 13.0, 22.0, 12.0]);
    let p = PoolParams { count_pad: false, ..p };
    close(&avg_pool(&mut tape, &x, p).unwrap(), [1, 2, 3, 1], &[4.5, 7.0, 9.0, 19.5, 22.0, 24.0]);
    let p = PoolParams { kernel: [2, 3], stride: [3, 2], pad: [1, 0, 0, 2], ceil: true, count_pad: true };
    close(&avg_pool(&mut tape, &x, p).unwrap(), [1, 2, 3, 1], &[1.0, 2.0, 1.833_333_4, 17.0, 19.0, 13.666_667]);
    close(&max_pool(&mut tape, &x, p).unwrap(), [1, 2, 3, 1], &[3.0, 5.0, 6.0, 21.0, 23.0, 24.0]);
}

#[test]
fn sizes_round_up_but_not_past_the_image() {
    let p = |k, stride, pad| PoolParams { ceil: true, ..PoolParams::square(k, stride, pad) };
    assert_eq!(p(2, 2, 0).output([9, 8]).unwrap(), [5, 4]);
    // A third window would start behind row 4 of 4, in the padding.
    assert_eq!(p(2, 3, 1).output([4, 6]).unwrap(), [2, 3]);
    assert_eq!(p(3, 3, 2).output([4, 3]).unwrap(), [2, 2]);
    assert_eq!(PoolParams::square(3, 2, 1).output([112, 7]).unwrap(), [56, 4]);
}

#[test]
fn windows_that_do_not_fit_are_errors() {
    for (p, size) in [
        (PoolParams::square(0, 1, 0), [4, 4]),
        (PoolParams::square(2, 0, 0), [4, 4]),
        (PoolParams::square(2, 1, 2), [4, 4]),
        (PoolParams::square(5, 1, 0), [5, 4]),
        (PoolParams::square(1, 1, 0), [0, 4]),
        (PoolParams::square(usize::MAX, 1, usize::MAX - 1), [4, 4]),
        (PoolParams::square(1 << 16, 1, (1 << 16) - 1), [4, 4]),
    ] {
        assert!(p.output(size).unwrap_err().contains("does not fit an image"), "{p:?}");
    }
}
