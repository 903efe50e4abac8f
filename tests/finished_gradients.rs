//! A data gradient that is the last to reach a layer's output goes through that layer's ReLU, residual sum and statistics in the kernel
//! that computes it: beside the same network whose layers do so by kernels of their own, on the emulator, bit for bit.

use ghostbit::Result;
use ghostbit::autograd::{Backward, Op, Tape, Var};
use ghostbit::device::Device;
use ghostbit::ops::conv_block::{Operand, Then, conv_block};
use ghostbit::ops::conv_bn_tune::TuneNorm;
use ghostbit::ops::conv_stats::{After, conv_stats};
use ghostbit::ops::conv2d::{Conv2dParams, Math};
use ghostbit::ops::fake_quant::{Axis, Codes, FakeQuantSpec, Ste, fake_quant_coded};
use ghostbit::tensor::{Shape, Tensor};

fn ramp(device: &Device, shape: &[usize], seed: usize) -> Tensor {
    let shape = Shape::from(shape);
    let v: Vec<f32> =
        (0..shape.elements()).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect();
    Tensor::from_slice(device, shape, &v).unwrap()
}

/// Leads nowhere.
struct Reader;

impl Op for Reader {
    fn name(&self) -> &'static str {
        "reader"
    }
    fn backward(self: Box<Self>, _: &mut Backward) -> Result<()> {
        unreachable!("nothing flows back to it")
    }
}

/// Leaves, in order, and the numbers of a normalization.
struct Network<'a> {
    device: &'a Device,
    tape: Tape,
    leaves: Vec<Var>,
    /// Whether an op that leads nowhere also reads what a layer made: then nobody can tell that he is the last.
    hindered: bool,
}

impl Network<'_> {
    fn leaf(&mut self, shape: &[usize]) -> Var {
        let v = self.tape.leaf(ramp(self.device, shape, self.leaves.len() + 1));
        self.leaves.push(v.clone());
        v
    }

    fn norm(&mut self, k: usize) -> [Var; 4] {
        let var: Vec<f32> = (0..k).map(|i| 0.4 + 0.3 * (i % 7) as f32).collect();
        let stored = [ramp(self.device, &[k], 90), Tensor::from_slice(self.device, [k], &var).unwrap()];
        let [mean, var] = stored.map(Var::constant);
        [self.leaf(&[k]), self.leaf(&[k]), mean, var]
    }

    fn hinder(&mut self, v: &Var) {
        if self.hindered {
            self.tape.record_one(Reader, &[v], ramp(self.device, &[1], 0));
        }
    }

    fn frozen(
        &mut self,
        x: &Var,
        [k, r]: [usize; 2],
        p: Conv2dParams,
        residual: Option<&Var>,
        stats: bool,
    ) -> Vec<Var> {
        let w = self.leaf(&[k, r, r, x.shape()[3]]);
        let [gamma, beta, mean, var] = self.norm(k);
        let norm = TuneNorm {
            gamma: Some(&gamma),
            beta: Some(&beta),
            mean: &mean.value,
            var: &var.value,
            eps: 1e-5,
            scaled: None,
        };
        let after = After { residual, relu: true, stats };
        let (u, stats) = conv_stats(&mut self.tape, [x, &w], None, norm, p, after).unwrap();
        self.hinder(&u);
        std::iter::once(u).chain(stats.into_iter().flat_map(|(mean, var)| [mean, var])).collect()
    }

    fn student(
        &mut self,
        x: (&Var, &Codes),
        k: usize,
        p: Conv2dParams,
        residual: Option<(&Var, &Codes)>,
    ) -> (Var, Codes) {
        let w = self.leaf(&[k, 3, 3, x.0.shape()[3]]);
        let ends = |from: f32| Var::constant(Tensor::from_slice(self.device, [k], &vec![from; k]).unwrap());
        let spec = FakeQuantSpec { bits: 4, axis: Axis::Outer, ste: Ste::Identity };
        let (wq, codes) = fake_quant_coded(&mut self.tape, &w, &ends(-0.7), &ends(0.9), spec).unwrap();
        let [gamma, beta, mean, var] = self.norm(k);
        let norm = TuneNorm {
            gamma: Some(&gamma),
            beta: Some(&beta),
            mean: &mean.value,
            var: &var.value,
            eps: 1e-5,
            scaled: None,
        };
        let end = |v: f32| Var::constant(Tensor::from_slice(self.device, [1], &[v]).unwrap());
        let (lo, hi) = (end(0.0), end(6.0));
        let operand = |(var, codes)| Operand { var, codes: Some(codes) };
        let then = Then { residual: residual.map(operand), relu: true, lo: &lo, hi: &hi, bits: 4, ste: Ste::Clipped };
        let made = conv_block(&mut self.tape, [operand(x), operand((&wq, &codes))], None, norm, p, then).unwrap();
        self.hinder(&made.0);
        made
    }

    /// Bits of all leaves' gradients, and how often `kernel` ran.
    fn gradients(self, seeds: &[&Var], kernel: &str) -> (Vec<Vec<u32>>, u64) {
        let gpu = self.device.gpu().unwrap();
        let seeds: Vec<(&Var, Tensor)> =
            seeds.iter().enumerate().map(|(i, v)| (*v, ramp(self.device, &v.shape(), 50 + i))).collect();
        gpu.take_census();
        let gradients = self.tape.backward_from(&seeds).unwrap();
        let launches = gpu.take_census().get(kernel).map_or(0, |w| w.launches);
        let bits = |v: &Var| {
            let g = gradients.of(v).expect("reaches every leaf").to_vec::<f32>().unwrap();
            assert!(g.iter().any(|g| *g != 0.0) && g.iter().all(|g| g.is_finite()));
            g.into_iter().map(f32::to_bits).collect()
        };
        (self.leaves.iter().map(bits).collect(), launches)
    }
}

fn network(device: &Device, hindered: bool) -> Network<'_> {
    Network { device, tape: Tape::new(device), leaves: Vec::new(), hindered }
}

/// Three layers: the first with a residual of its own, whose output is read by the second and, at stride 1, added to the third.
fn frozen(device: &Device, c: usize, p: Conv2dParams, hindered: bool) -> (Vec<Vec<u32>>, u64) {
    let mut n = network(device, hindered);
    let x = n.leaf(&[2, 6, 5, 8]);
    let residual = n.leaf(&[2, 6, 5, c]);
    let one = Conv2dParams::new(1, 1).math(p.math);
    let first = n.frozen(&x, [c, 3], one, Some(&residual), true);
    let second = n.frozen(&first[0], [c, 3], p, None, true);
    let again = (p.stride == [1; 2]).then_some(&first[0]);
    let third = n.frozen(&second[0], [c, 3], one, again, false);
    n.gradients(&[&third[0], &first[1], &first[2], &second[1], &second[2]], "conv_stats_bwd_f32")
}

fn student(device: &Device, c: usize, p: Conv2dParams, hindered: bool) -> (Vec<Vec<u32>>, u64) {
    let mut n = network(device, hindered);
    let x = n.leaf(&[2, 6, 5, 16]);
    let end = |v: f32| Var::constant(Tensor::from_slice(device, [1], &[v]).unwrap());
    let spec = FakeQuantSpec { bits: 4, axis: Axis::Tensor, ste: Ste::Identity };
    let (x, codes) = fake_quant_coded(&mut n.tape, &x, &end(-0.7), &end(0.9), spec).unwrap();
    let one = Conv2dParams::new(1, 1).math(p.math);
    let first = n.student((&x, &codes), c, one, None);
    let second = n.student((&first.0, &first.1), c, p, None);
    let again = (p.stride == [1; 2]).then_some((&first.0, &first.1));
    let third = n.student((&second.0, &second.1), c, one, again);
    n.gradients(&[&third.0], "conv_block_bwd_f32")
}

#[test]
fn layers_find_their_gradients_finished() {
    let device = Device::emulator().and_then(|d| d.counting()).unwrap();
    for math in [Math::F32, Math::Tf32, Math::Bf16] {
        for c in [8, 16, 24, 32, 64, 72] {
            for stride in [1, 2] {
                let p = Conv2dParams::new(stride, 1).math(math);
                for (name, run) in [("frozen", frozen as fn(_, _, _, _) -> _), ("student", student)] {
                    let (finished, few) = run(&device, c, p, false);
                    let (apart, many) = run(&device, c, p, true);
                    assert!(finished == apart, "{name}, {c} channels, stride {stride}, {math:?}");
                    // The last layer has nobody behind it.
                    assert_eq!((few, many), (1, 3), "{name}, {c} channels, stride {stride}, {math:?}");
                }
            }
        }
    }
}

/// Bits of a mask and elements do not lie alike: every layer on its own.
#[test]
fn channels_not_in_eights_are_left_alone() {
    let device = Device::emulator().and_then(|d| d.counting()).unwrap();
    let p = Conv2dParams::new(1, 1);
    assert_eq!(frozen(&device, 12, p, false).1, 3);
    assert_eq!(student(&device, 12, p, false).1, 3);
}
