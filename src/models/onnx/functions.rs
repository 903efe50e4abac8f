//! Functions of each element.

use super::Outcome;
use super::attributes::Attributes;
use super::build::{Build, Flow};
use super::emit::{self, Function};
use super::scaling::Affine;
use crate::tensor::io::HostTensor;
use crate::tensor::onnx::NodeProto;

impl Function {
    /// Whether zeros stay zeros.
    fn keeps_zero(self) -> bool {
        match self {
            Self::Clip { low, high } => low <= 0.0 && high >= 0.0,
            Self::Sigmoid | Self::HardSigmoid { .. } | Self::Softplus => false,
            _ => true,
        }
    }
}

impl Build<'_> {
    pub(super) fn activation(&mut self, node: &NodeProto, f: Function) -> Outcome<Flow> {
        let mut x = self.raw_flow(node, 0)?;
        let zeros = x.pad.filter(|p| !p.lowest && f.keeps_zero());
        if zeros.is_some() {
            x.pad = None;
        }
        let x = self.settled(node, x)?;
        let x = self.padded(node, x)?;
        Ok(Flow { pad: zeros, ..self.function_of(node, x, f)? })
    }

    pub(super) fn function_of(&mut self, node: &NodeProto, x: Flow, f: Function) -> Outcome<Flow> {
        let id = self.push(node, "", emit::activation(f)?, &[x.node])?;
        Ok(Flow { node: id, shared: false, ..x })
    }

    pub(super) fn leaky_relu(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let slope = Attributes(node).float("alpha", 0.01);
        let f = self.leaky(slope).map_err(|e| format!("alpha = {slope} {e}"))?;
        self.activation(node, f)
    }

    fn leaky(&self, slope: f32) -> Outcome<Function> {
        match slope {
            0.0 => Ok(Function::Relu),
            s if s.is_finite() && s > 0.0 => Ok(Function::LeakyRelu(s)),
            _ => Err("is not above 0".into()),
        }
    }

    pub(super) fn prelu(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        let x = self.rows_if_flat(node, x)?;
        let t = self.host(node, 1)?;
        let slope = self.per_channel(&x, &t).map_err(|e| format!("{e} ('{}')", node.input[1]))?;
        let c = self.channels(x.node);
        let values = if slope.len() == 1 { vec![slope[0]; c] } else { slope };
        let slope = self.param(&node.input[1], &[c], HostTensor { shape: vec![c], values })?;
        let id = self.push(node, "", emit::prelu(slope)?, &[x.node])?;
        Ok(Flow { node: id, shared: false, ..x })
    }

    pub(super) fn hard_sigmoid(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let (alpha, beta) = (Attributes(node).finite("alpha", 0.2)?, Attributes(node).finite("beta", 0.5)?);
        if alpha <= 0.0 {
            return Err(format!("alpha = {alpha} is not above 0"));
        }
        self.activation(node, Function::HardSigmoid { alpha, beta })
    }

    /// `max(x, 0) + min(0, alpha (exp(x / alpha) - 1))`: an Elu of `x / alpha`, times `alpha`.
    pub(super) fn celu(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let alpha = Attributes(node).finite("alpha", 1.0)?;
        if alpha <= 0.0 {
            return Err(format!("alpha = {alpha} is not above 0"));
        }
        let x = self.flow(node, 0)?;
        if alpha == 1.0 {
            return self.function_of(node, x, Function::Elu(1.0));
        }
        let x = self.affine(node, x, false, "celu.in", Affine::scale(vec![1.0 / alpha]))?;
        let y = self.function_of(node, x, Function::Elu(1.0))?;
        self.affine(node, y, false, "celu.out", Affine::scale(vec![alpha]))
    }

    /// Selu is an Elu times a number.
    pub(super) fn elu(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let selu = node.op_type == "Selu";
        let alpha = Attributes(node).finite("alpha", if selu { 1.673_263_2 } else { 1.0 })?;
        if alpha <= 0.0 {
            return Err(format!("alpha = {alpha} is not above 0"));
        }
        let y = self.activation(node, Function::Elu(alpha))?;
        if !selu {
            return Ok(y);
        }
        let gamma = Attributes(node).finite("gamma", 1.050_701)?;
        self.affine(node, y, false, "gamma", Affine::scale(vec![gamma]))
    }

    pub(super) fn gelu(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let tanh = match &*Attributes(node).text("approximate", "none") {
            "none" => false,
            "tanh" => true,
            other => return Err(format!("approximate = {other} is not supported")),
        };
        self.activation(node, Function::Gelu { tanh })
    }

    pub(super) fn swish(&mut self, node: &NodeProto) -> Outcome<Flow> {
        match Attributes(node).float("alpha", 1.0) {
            1.0 => self.activation(node, Function::Silu),
            alpha => Err(format!("alpha = {alpha} is not supported, only 1 (SiLU)")),
        }
    }

    pub(super) fn thresholded_relu(&mut self, node: &NodeProto) -> Outcome<Flow> {
        match Attributes(node).float("alpha", 1.0) {
            0.0 => self.activation(node, Function::Relu),
            alpha => Err(format!("alpha = {alpha} is not supported, only 0 (ReLU)")),
        }
    }

    /// Clip, and Max and Min with constants.
    pub(super) fn clip(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let (mut low, mut high) = (f32::NEG_INFINITY, f32::INFINITY);
        let mut at = 0;
        if node.op_type == "Clip" {
            for (i, name, end) in [(1, "min", &mut low), (2, "max", &mut high)] {
                if self.opset < 11 {
                    *end = Attributes(node).float(name, *end);
                } else if self.has(node, i) {
                    *end = self.number(node, i)? as f32;
                }
            }
        } else {
            let flows: Vec<usize> = (0..node.input.len()).filter(|&i| !self.is_constant(node, i)).collect();
            let &[one] = &flows[..] else { return Err("of several activations is not supported".into()) };
            at = one;
            for i in (0..node.input.len()).filter(|&i| i != one) {
                let host = self.host(node, i)?;
                let x = self.raw_flow(node, one)?;
                let v = self.per_channel(&x, &host)?;
                let &[v] = &v[..] else { return Err("with one number per channel is not supported".into()) };
                if node.op_type == "Max" { low = low.max(v) } else { high = high.min(v) }
            }
        }
        let x = self.flow(node, at)?;
        if low.is_nan() || high.is_nan() || low >= high {
            return Err(format!("to {low} .. {high} leaves nothing between"));
        }
        // ONNX's default ends are the largest numbers.
        let (open, closed) = (low <= f32::MIN, high >= f32::MAX);
        match (open, closed) {
            (true, true) => Ok(x),
            (false, true) if low == 0.0 => self.function_of(node, x, Function::Relu),
            _ => {
                let f = Function::Clip { low: low.max(f32::MIN), high: high.min(f32::MAX) };
                self.function_of(node, x, f)
            }
        }
    }
}
