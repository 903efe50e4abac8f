//! What a node is given to compute with: the tape, its parameters, the codes of its input, and how the network runs.

use super::forward::Forward;
use super::nodes::{BatchNorm, WeightQuant};
use super::statistics::Found;
use super::{Network, NodeId};
use crate::autograd::{Tape, Var};
use crate::ops::channel_stats::channel_stats;
use crate::ops::conv_bn_tune::{Scaled, TuneNorm};
use crate::ops::conv2d::Conv2dParams;
use crate::ops::fake_quant::Codes;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// One node's computation.
pub struct Run<'a> {
    pub tape: &'a mut Tape,
    pub how: Forward,
    source: Source<'a>,
    node: NodeId,
    /// Codes of the first input.
    codes: Option<Codes>,
    /// Whether batch statistics are wanted.
    statistics: bool,
    pub(super) made: Made,
}

/// What a node leaves besides its output.
#[derive(Default)]
pub(super) struct Made {
    /// Codes of its output.
    pub codes: Option<Codes>,
    /// Statistics of a batch norm's input.
    pub statistics: Option<Found>,
}

/// Where parameters come from.
enum Source<'a> {
    Network(&'a mut Network),
    /// Constants by name, for inference: weights as the values of their codes.
    Constants(&'a BTreeMap<String, Tensor>),
}

/// Vectors of a batch norm.
pub struct NormVectors {
    pub gamma: Option<Var>,
    pub beta: Option<Var>,
    pub mean: Tensor,
    pub var: Tensor,
    pub eps: f32,
}

impl NormVectors {
    /// Returns them as the fused op takes them; `scaled` is the filter that was scaled beforehand, if any.
    pub fn tune<'a>(&'a self, scaled: Option<&'a Scaled>) -> TuneNorm<'a> {
        let (gamma, beta) = (self.gamma.as_ref(), self.beta.as_ref());
        TuneNorm { gamma, beta, mean: &self.mean, var: &self.var, eps: self.eps, scaled }
    }
}

impl<'a> Run<'a> {
    /// Prepares node `node` of `network`; `codes` are those of its first input.
    pub(super) fn of_network(
        network: &'a mut Network,
        tape: &'a mut Tape,
        node: NodeId,
        codes: Option<Codes>,
        statistics: bool,
        how: Forward,
    ) -> Self {
        Self { tape, how, source: Source::Network(network), node, codes, statistics, made: Made::default() }
    }

    /// Prepares a node whose parameters are `constants`, in evaluation.
    pub(super) fn of_constants(constants: &'a BTreeMap<String, Tensor>, tape: &'a mut Tape) -> Self {
        let (how, source) = (Forward::eval(), Source::Constants(constants));
        Self { tape, how, source, node: 0, codes: None, statistics: false, made: Made::default() }
    }

    fn network(&self) -> Result<&Network> {
        match &self.source {
            Source::Network(network) => Ok(network),
            Source::Constants(_) => Err(Error::op("deployed node", "needs a network that can be trained")),
        }
    }

    /// Returns a parameter. Errors if there is none of that name.
    pub fn param(&mut self, name: &str) -> Result<Var> {
        match &self.source {
            Source::Network(network) => network.var(&network.params, self.tape, name, self.how),
            Source::Constants(all) => match all.get(name) {
                Some(t) => Ok(Var::constant(t.clone())),
                None => Err(Error::op("deployed node", format!("no parameter '{name}'"))),
            },
        }
    }

    /// Returns a parameter that may be absent.
    pub fn optional(&mut self, name: Option<&String>) -> Result<Option<Var>> {
        name.map(|name| self.param(name)).transpose()
    }

    /// Returns a weight as this pass uses it, fake-quantized per output channel if `quant` says so; then with its codes, if
    /// the input has codes too.
    pub fn weight(&mut self, name: &str, quant: Option<WeightQuant>) -> Result<(Var, Option<Codes>)> {
        self.weight_coded(name, quant, self.codes.is_some())
    }

    /// Returns [`Self::weight`] without codes.
    pub fn weight_value(&mut self, name: &str, quant: Option<WeightQuant>) -> Result<(Var, Option<Codes>)> {
        self.weight_coded(name, quant, false)
    }

    fn weight_coded(&mut self, name: &str, quant: Option<WeightQuant>, coded: bool) -> Result<(Var, Option<Codes>)> {
        match &self.source {
            Source::Network(network) => network.weight(self.tape, name, quant, coded, self.how),
            Source::Constants(_) => Ok((self.param(name)?, None)),
        }
    }

    /// Returns the codes of the first input, if it has some.
    pub fn codes(&self) -> Option<Codes> {
        self.codes.clone()
    }

    /// Returns whether the caller put another tensor in place of parameter `name` in this pass.
    pub fn stands_in(&self, name: &str) -> bool {
        matches!(&self.source, Source::Network(network) if network.stand_ins.contains_key(name))
    }

    /// Shifts the input of a strided convolution at random where the pass asks for it. Shifted inputs have no codes.
    pub fn swing(&mut self, x: &Var, params: &Conv2dParams) -> Result<Var> {
        let Some(swing) = self.how.swing.filter(|_| params.stride != [1; 2]) else { return Ok(x.clone()) };
        let draws = self.network()?.counted(swing.stream + self.node as u64);
        self.codes = None;
        swing.apply(self.tape, x.clone(), self.node, draws)
    }

    /// Returns the vectors of batch norm `norm`.
    pub fn norm_vectors(&mut self, norm: &BatchNorm) -> Result<NormVectors> {
        let (gamma, beta) = (self.optional(norm.gamma.as_ref())?, self.optional(norm.beta.as_ref())?);
        let buffers = &self.network()?.buffers;
        let (mean, var) = (buffers[&norm.mean].clone(), buffers[&norm.var].clone());
        Ok(NormVectors { gamma, beta, mean, var, eps: norm.eps })
    }

    /// Returns the filter of this node that was scaled for the whole pass, if it was.
    pub fn scaled(&self) -> Result<Option<Scaled>> {
        Ok(self.network()?.scaled.get(&self.node).cloned())
    }

    /// Takes the batch statistics of a batch norm's input, if they are wanted.
    pub fn observe_before(&mut self, x: &Var) -> Result<()> {
        if self.statistics {
            self.made.statistics = Some(Found::before(self.node, channel_stats(self.tape, x)?));
        }
        Ok(())
    }

    /// Takes the batch statistics of a fused batch norm's output, from which those of its input follow.
    pub fn observe_behind(&mut self, y: &Var, norm: &NormVectors) -> Result<()> {
        if self.statistics {
            let stats = channel_stats(self.tape, y)?;
            self.made.statistics = Some(Found::behind(self.node, stats, norm.tune(None)));
        }
        Ok(())
    }

    /// Fake-quantizes an activation and keeps its codes, if a layer computes with them.
    pub fn quantize(&mut self, x: &Var, bits: u8) -> Result<Var> {
        let (node, how) = (self.node, self.how);
        let Source::Network(network) = &mut self.source else {
            return Err(Error::op("fake_quant", "has no range: a deployed quantizer has a step of its own"));
        };
        let coded = network.graph.computes_with_codes(node);
        let (y, codes) = network.quantize_activation(self.tape, x, node, bits, coded, how)?;
        self.made.codes = codes;
        Ok(y)
    }
}
