//! An integer network beside the float one, on the CPU.

use super::{Args, Report};
use crate::Result;
use crate::data::Normalization;
use crate::deploy::measure::{self, Speed};
use crate::deploy::{Engine, lower};
use crate::device::Device;
use crate::graph::Network;
use crate::graph::passes::{QuantizeSpec, quantize};
use crate::tensor::{DType, Tensor};
use serde_json::json;

pub fn report(args: &Args) -> Result<Report> {
    let device = Device::cpu();
    let mut float = args.network.load(&device)?;
    // Ranges and weights do not change the time.
    let mut student = Network::new(&device, quantize(&float.graph, QuantizeSpec::new(4, 4))?, 0)?;
    student.copy_from(&float)?;
    student.weight_ranges_min_max()?;
    let ones = Tensor::from_slice(&device, [1], &[1.0f32])?;
    let zero = Tensor::zeros(&device, [1], DType::F32)?;
    for q in student.graph.quantizers().iter().filter(|q| !q.weight) {
        student.set_range(&q.name, &zero, &ones)?;
    }
    let engine = Engine::new(lower(&student, Normalization::CIFAR)?)?;
    let (mut rows, mut text) = (Vec::new(), String::new());
    for batch in [1, args.batch.max(1)] {
        // Small batches are timed more often.
        let s = measure::compare(&engine, &mut float, batch, args.iters as usize * (256 / batch).clamp(1, 20))?;
        rows.push(json!({"batch": s.batch, "integer_seconds": s.integer, "float_seconds": s.float}));
        text += &format!("{}\n", line(&s, &args.network.arch(), &device));
    }
    let document = json!({"bench": "integer", "network": args.network.arch(), "device": device.name(), "speed": rows});
    Ok((document, text))
}

/// One line: seconds of both, and the ratio.
pub fn print_speed(s: &Speed, arch: &str, device: &Device) {
    println!("{}", line(s, arch, device));
}

fn line(s: &Speed, arch: &str, device: &Device) -> String {
    let (i, f) = (s.integer * 1e3, s.float * 1e3);
    let rate = s.batch as f64 / s.integer;
    format!(
        "batch {:<4} integer {i:.3} ms ({rate:.0} images/s), float {arch} {f:.3} ms: {:.2}x, {}",
        s.batch,
        f / i,
        device.name()
    )
}
