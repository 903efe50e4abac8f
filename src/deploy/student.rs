//! The student as a float checkpoint.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Network;
use crate::ops::fake_quant::{Axis, FakeQuantSpec, Ste, fake_quant};
use crate::tensor::io::Checkpoint;

/// The checkpoint of `network` under the teacher's own tensor names, with the values of the quantized weights as weights and
/// without ranges: whatever loads the teacher loads it, and computes with weights of few bits and activations in f32.
pub fn float_student(network: Network) -> Result<Checkpoint> {
    let mut tape = Tape::inference(&network.device());
    let quantizers = network.graph.quantizers();
    for q in quantizers.iter().filter(|q| q.weight) {
        let constant = |t| Var::constant(t);
        let mut w = network.params.get(&q.name)?;
        let [lo, hi] = ["lo", "hi"].map(|end| network.ranges.get(&format!("{}.{end}", q.name)).map(constant));
        let spec = FakeQuantSpec { bits: q.bits, axis: Axis::Outer, ste: Ste::Identity };
        w.copy_from(&fake_quant(&mut tape, &constant(w.clone()), &lo?, &hi?, spec)?.value)?;
    }
    let mut file = network.to_checkpoint()?;
    for q in &quantizers {
        for end in ["lo", "hi"] {
            file.tensors.remove(&format!("{}.{end}", q.name));
        }
    }
    Ok(file)
}
