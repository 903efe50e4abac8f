//! Deploy mode: batch norms folded into the convolutions before them, for inference, or to train the folded weights, which
//! is unstable (You et al., ICLR 2024): a step in folded weights is one of `1 / s^2` its size in the original ones.

use super::super::nodes::{BatchNorm, Conv2d, ConvBn};
use super::super::{Graph, Init, Network, NodeKind};
use super::tune_bn;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// `network` with `w' = s w` and `b' = beta + s (b - mu)`, `s = gamma / sqrt(var + eps)`, in place of every convolution
/// and batch norm that [`tune_bn`] would fuse. Weights keep their names; a new bias is `CONV.bias`. Host arithmetic in
/// f64, rounded once. Errors if a batch norm cannot be folded (nothing but a convolution may stand before it), or a
/// quantizer is there, whose ranges belong to the unfolded weights.
pub fn fold_bn(network: &Network) -> Result<Network> {
    let tuned = tune_bn(&network.graph);
    let fail = |what: String| Error::network(&tuned.name, what);
    let left = tuned.nodes.iter().find(|n| matches!(n.kind, NodeKind::BatchNorm(_)));
    if let Some(n) = left {
        return Err(fail(format!("batch norm '{}' has no convolution of its own to be folded into", n.name)));
    }
    if !tuned.quantizers().is_empty() {
        return Err(fail("is quantized; fold the float network".into()));
    }
    let mut graph = Graph { buffers: Vec::new(), ..tuned.without_nodes() };
    let mut folded: Vec<(String, ConvBn)> = Vec::new();
    for node in &tuned.nodes {
        let mut kind = node.kind.clone();
        if let NodeKind::ConvBn(both) = &node.kind {
            let Conv2d { weight, bias, params, .. } = &both.conv;
            let k = graph.tensor(weight).map_or(0, |shape| shape[0]);
            let unused = |p: &str| [&both.norm.gamma, &both.norm.beta].into_iter().flatten().any(|n| n == p);
            graph.params.retain(|p| !unused(&p.name));
            let own = match bias {
                Some(b) => b.clone(),
                None => graph.param(format!("{}.bias", node.name), &[k], Init::Zeros),
            };
            let (weight, bias) = (weight.clone(), Some(own.clone()));
            kind = Conv2d { weight, bias, params: *params, quant: None }.into();
            folded.push((own, both.clone()));
        }
        graph.push(node.name.clone(), kind, &node.inputs);
    }
    let mut out = Network::new(&network.device(), graph, 0)?;
    out.copy_from(network)?;
    for (own, ConvBn { conv: Conv2d { weight, bias, .. }, norm, .. }) in &folded {
        let BatchNorm { gamma, beta, mean, var, eps } = norm;
        let values = |t: &Tensor| t.to_f64();
        let param = |p: &Option<String>| p.as_ref().map(|p| values(&network.params.get(p)?)).transpose();
        let (gamma, beta, bias) = (param(gamma)?, param(beta)?, param(bias)?);
        let (mean, var) = (values(&network.buffers[mean])?, values(&network.buffers[var])?);
        let mut w = values(&network.params.get(weight)?)?;
        let (k, row) = (mean.len(), w.len() / mean.len());
        let of = |v: &Option<Vec<f64>>, i: usize, absent: f64| v.as_ref().map_or(absent, |v| v[i]);
        let scales: Vec<f64> = (0..k).map(|i| of(&gamma, i, 1.0) / (var[i] + f64::from(*eps)).sqrt()).collect();
        for (row, s) in w.chunks_exact_mut(row).zip(&scales) {
            row.iter_mut().for_each(|w| *w *= s);
        }
        let shift = |i: usize| of(&beta, i, 0.0) + scales[i] * (of(&bias, i, 0.0) - mean[i]);
        let f32s = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        out.params.get(weight)?.write(&f32s(w))?;
        out.params.get(own)?.write(&f32s((0..k).map(shift).collect()))?;
    }
    Ok(out)
}
