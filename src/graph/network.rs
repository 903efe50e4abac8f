//! A graph with values: parameters, buffers, quantizer ranges.

use super::forward::STREAMS;
use super::quantized::QuantizedWeights;
use super::{Graph, Init, NodeId, NodeKind, ParamSpec, ParamStore};
use crate::Result;
use crate::autograd::Var;
use crate::device::Device;
use crate::ops::conv_bn_tune::Scaled;
use crate::ops::fake_quant::Axis;
use crate::ops::observe::{self, EmaForm, EmaState};
use crate::ops::random::Stream;
use crate::tensor::{Shape, Tensor, init};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A network on a device.
pub struct Network {
    pub graph: Arc<Graph>,
    pub params: ParamStore,
    /// Quantizer ranges, two per quantizer: `<quantizer>.lo` and `.hi`; `[1]` for activations, `[k]` for weights. A
    /// store of its own because ranges, when learned, take another learning rate.
    pub ranges: ParamStore,
    /// Running statistics.
    pub buffers: BTreeMap<String, Tensor>,
    /// Moving averages of activation ranges, by quantizer.
    pub(super) ema: BTreeMap<String, EmaState>,
    /// Of the pass under way: see [`Network::forward_part`].
    pub(super) stand_ins: BTreeMap<String, Var>,
    /// The number of the pass under way in device memory, I32 `[2]`, low word first, if draws take it from there: see
    /// [`Network::count_draws`].
    pub(super) counter: Option<Tensor>,
    /// Where the quantized weights lie.
    pub(super) weights: QuantizedWeights,
    /// Filters scaled for the pass under way, by layer.
    pub(super) scaled: BTreeMap<NodeId, Scaled>,
}

/// A quantizer of a network: a weight (per output channel) or a fake-quant node (per tensor).
#[derive(Clone, Debug)]
pub struct QuantizerInfo {
    /// `layer1.0.conv1.weight` or the fake-quant node's name.
    pub name: String,
    pub bits: u8,
    pub channels: usize,
    pub weight: bool,
    pub node: NodeId,
}

impl Graph {
    /// All quantizers in order.
    pub fn quantizers(&self) -> Vec<QuantizerInfo> {
        let mut list = Vec::new();
        for (node, n) in self.nodes.iter().enumerate() {
            if let NodeKind::FakeQuant(q) = &n.kind {
                list.push(QuantizerInfo { name: n.name.clone(), bits: q.bits, channels: 1, weight: false, node });
            }
            if let Some((layer, quant)) = n.kind.layer().and_then(|l| Some((l, l.quant?))) {
                let channels = self.tensor(layer.weight).map_or(0, |shape| shape[0]);
                let name = layer.weight.clone();
                list.push(QuantizerInfo { name, bits: quant.bits, channels, weight: true, node });
            }
        }
        list
    }
}

impl Network {
    /// Allocates a graph's parameters and draws their initial values from `seed`.
    pub fn new(device: &Device, graph: Graph, seed: u64) -> Result<Self> {
        let params = ParamStore::new(device, &graph.params, seed)?;
        let mut buffers = BTreeMap::new();
        for b in &graph.buffers {
            buffers.insert(b.name.clone(), init::full(device, b.shape, b.value)?);
        }
        let mut specs = Vec::new();
        let mut ema = BTreeMap::new();
        for q in graph.quantizers() {
            for end in ["lo", "hi"] {
                let shape = Shape::new(&[q.channels]);
                specs.push(ParamSpec { name: format!("{}.{end}", q.name), shape, init: Init::Zeros });
            }
            if !q.weight {
                ema.insert(q.name.clone(), EmaState::new(device, q.channels)?);
            }
        }
        let ranges = ParamStore::new(device, &specs, seed)?;
        let weights = QuantizedWeights::new(&graph, &params)?;
        Ok(Self {
            graph: Arc::new(graph),
            params,
            ranges,
            buffers,
            ema,
            stand_ins: BTreeMap::new(),
            counter: None,
            weights,
            scaled: BTreeMap::new(),
        })
    }

    pub fn device(&self) -> Device {
        self.params.values().device()
    }

    /// Copies parameters and buffers of equal names and shapes from `other` (a teacher into its quantized student).
    pub fn copy_from(&mut self, other: &Network) -> Result<()> {
        for (name, _) in other.params.entries() {
            if self.params.contains(name) {
                self.params.get(name)?.copy_from(&other.params.get(name)?)?;
            }
        }
        for (name, t) in &other.buffers {
            if let Some(mine) = self.buffers.get_mut(name) {
                mine.copy_from(t)?;
            }
        }
        Ok(())
    }

    /// A network of the same parameters and buffers in the same memory, for another reader, on any thread: on a GPU one with a
    /// stream of its own, `device` (see [`Tensor::lent`]). Nobody may write to them from then on: for frozen teachers. Errors if it
    /// has quantizers, whose ranges a forward pass may move.
    pub fn shared(&self, device: &Device) -> Result<Self> {
        let quantizers = self.graph.quantizers().len();
        crate::ensure_op!(quantizers == 0, "network", "a network with {quantizers} quantizers cannot be shared");
        Ok(Self {
            graph: self.graph.clone(),
            params: self.params.shared(device)?,
            ranges: self.ranges.shared(device)?,
            buffers: self.buffers.iter().map(|(name, t)| Ok((name.clone(), t.lent(device)?))).collect::<Result<_>>()?,
            ema: BTreeMap::new(),
            stand_ins: BTreeMap::new(),
            counter: None,
            weights: QuantizedWeights::default(),
            scaled: BTreeMap::new(),
        })
    }

    /// From now on the draws of [`super::Drop`] and [`super::Swing`] take stream `stream + STREAMS counter`, [`STREAMS`], `counter` being I32 `[2]` on
    /// this network's device, low word first: a recorded pass draws anew whenever it is replayed. `None`: `stream` alone.
    pub fn count_draws(&mut self, counter: Option<Tensor>) {
        self.counter = counter;
    }

    /// The sequence of a pass's draw.
    pub(super) fn draws(&self, stream: u64) -> Stream {
        self.counted(stream).unwrap_or(stream.into())
    }

    /// The same, if passes are counted.
    pub(super) fn counted(&self, stream: u64) -> Option<Stream> {
        self.counter.as_ref().map(|c| Stream::counted(c, STREAMS, stream))
    }

    /// Forgets the moving averages of activation ranges, so that tracking starts anew.
    pub fn reset_range_tracking(&mut self) -> Result<()> {
        for state in self.ema.values_mut() {
            *state = EmaState::new(&state.lo.device(), state.lo.len())?;
        }
        Ok(())
    }

    /// Feeds one observation of an activation quantizer's range into its moving average and its stored range.
    pub(super) fn track(&mut self, quantizer: &str, lo: &Tensor, hi: &Tensor, form: EmaForm) -> Result<()> {
        let state = self.ema.get_mut(quantizer).expect("every activation quantizer has a moving average");
        observe::ema_update(state, lo, hi, form, 0.9)?;
        self.ranges.get(&format!("{quantizer}.lo"))?.copy_from(&state.lo)?;
        self.ranges.get(&format!("{quantizer}.hi"))?.copy_from(&state.hi)
    }

    /// Sets every weight range to the minimum and maximum of its channel.
    pub fn weight_ranges_min_max(&mut self) -> Result<()> {
        for q in self.graph.quantizers().into_iter().filter(|q| q.weight) {
            let (lo, hi) = observe::min_max(&self.params.get(&q.name)?, Axis::Outer)?;
            self.set_range(&q.name, &lo, &hi)?;
        }
        Ok(())
    }

    /// Sets every weight range to the one with the least squared error per channel.
    pub fn weight_ranges_search(&mut self) -> Result<()> {
        for q in self.graph.quantizers().into_iter().filter(|q| q.weight) {
            let (lo, hi) = crate::ops::range_search::range_search(&self.params.get(&q.name)?, q.bits, Axis::Outer)?;
            self.set_range(&q.name, &lo, &hi)?;
        }
        Ok(())
    }

    /// Sets both ends of every activation range to `factor` times their moving averages, which stay: doing it twice is
    /// doing it once. Waits for the device.
    pub fn scale_activation_ranges(&mut self, factor: f32) -> Result<()> {
        for (quantizer, state) in &self.ema {
            for (end, average) in [("lo", &state.lo), ("hi", &state.hi)] {
                let scaled: Vec<f32> = average.to_vec::<f32>()?.into_iter().map(|v| v * factor).collect();
                self.ranges.get(&format!("{quantizer}.{end}"))?.write(&scaled)?;
            }
        }
        Ok(())
    }

    /// Overwrites the range of a quantizer by name: `[1]` each, or `[k]` of a weight.
    pub fn set_range(&mut self, quantizer: &str, lo: &Tensor, hi: &Tensor) -> Result<()> {
        self.ranges.get(&format!("{quantizer}.lo"))?.copy_from(lo)?;
        self.ranges.get(&format!("{quantizer}.hi"))?.copy_from(hi)
    }

    /// Moving-average states by quantizer, for checkpoints.
    pub fn range_tracking(&self) -> &BTreeMap<String, EmaState> {
        &self.ema
    }
}
