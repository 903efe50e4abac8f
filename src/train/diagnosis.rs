//! What synthetic images are like, in the terms of the methods that claim to mend it: ACQ's attention centres and the
//! agreement of attention under running and batch statistics, GDFQ's distance of statistics, DSG's correlation between
//! samples, ClusterQ's separation of classes. Reported, never trained on; computed on the host in f64.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::{Forward, Network, Taps};
use crate::ops::accuracy::argmax;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Measures of one set of synthetic images. Those that look at the last feature map, or at the features in front of the
/// last layer, are absent for a teacher without them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    pub images: usize,
    /// Share of images that the teacher calls by their label.
    pub label_agreement: f64,
    /// Mean over batches of GDFQ's loss: MSE of means plus MSE of variances, averaged over batch norms.
    pub bn_distance: f64,
    /// Mean absolute cosine between the pixels of two images of a batch.
    pub correlation: f64,
    /// Root mean squared distance of attention centres from their class's mean centre, in units of the map's side.
    pub center_spread: Option<f64>,
    /// Mean cosine between an image's attention under running and under the batch's own statistics.
    pub attention_similarity: Option<f64>,
    /// Variance of pooled features between classes over that within classes.
    pub separation: Option<f64>,
}

/// Sums over batches.
#[derive(Default)]
struct Seen {
    labels: Vec<i32>,
    agree: usize,
    bn: Vec<f64>,
    correlation: Vec<f64>,
    centers: Vec<Vec<f64>>,
    features: Vec<Vec<f64>>,
    similarity: Vec<f64>,
}

/// Measures `(images [n h w c], labels [n])` batches through the frozen `teacher`; statistics are each batch's own.
pub fn diagnose(teacher: &mut Network, batches: &[(Tensor, Tensor)]) -> Result<Diagnosis> {
    let head = teacher.graph.head("a diagnosis").ok();
    let nodes: Vec<_> = head.iter().flat_map(|h| [Some(h.map), h.features]).flatten().collect();
    let mut seen = Seen::default();
    for (x, y) in batches {
        let mut tape = Tape::inference(&x.device());
        let input = [Var::constant(x.clone())];
        let taps = Taps { bn_stats: true, nodes: nodes.clone() };
        let out = teacher.forward(&mut tape, &input, Forward::eval(), &taps)?;
        let labels = y.to_vec::<i32>()?;
        seen.agree += argmax(&out.output.value)?.iter().zip(&labels).filter(|(a, b)| a == b).count();
        seen.labels.extend(labels);
        let mut distance = 0.0;
        for s in &out.bn_stats {
            if let Some(norm) = teacher.graph.nodes[s.node].kind.batch_norm() {
                let (mean, var) = (&teacher.buffers[&norm.mean], &teacher.buffers[&norm.var]);
                distance += mean_square(&s.mean.value, mean)? + mean_square(&s.var.value, var)?;
            }
        }
        seen.bn.push(distance / out.bn_stats.len().max(1) as f64);
        seen.correlation.extend(cosines(&rows(x)?));
        if let (Some(head), [map, features @ ..]) = (&head, &out.taps[..]) {
            let eval = attention(&map.value)?;
            seen.centers.extend(eval.iter().map(|a| center(a, map.value.dim(2))));
            if let [features] = features {
                seen.features.extend(rows(&features.value)?);
            }
            let taps = Taps { bn_stats: false, nodes: vec![head.map] };
            let again = teacher.forward(&mut tape, &input, Forward::batch(), &taps)?;
            let batch = attention(&again.taps[0].value)?;
            seen.similarity.extend(eval.iter().zip(&batch).map(|(a, b)| cosine(a, b)));
        }
    }
    let images = seen.labels.len();
    let with_head = |v: f64| head.is_some().then_some(v);
    let (_, within) = variances(&seen.centers, &seen.labels);
    let (between, inside) = variances(&seen.features, &seen.labels);
    Ok(Diagnosis {
        images,
        label_agreement: seen.agree as f64 / images.max(1) as f64,
        bn_distance: average(&seen.bn),
        correlation: average(&seen.correlation),
        center_spread: with_head(within.sqrt()),
        attention_similarity: with_head(average(&seen.similarity)),
        separation: (!seen.features.is_empty()).then(|| between / inside.max(f64::MIN_POSITIVE)),
    })
}

fn average(v: &[f64]) -> f64 {
    v.iter().sum::<f64>() / v.len().max(1) as f64
}

fn mean_square(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    Ok(average(&a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).collect::<Vec<_>>()))
}

/// A tensor's outermost rows.
fn rows(t: &Tensor) -> Result<Vec<Vec<f64>>> {
    let row = (t.len() / t.dim(0).max(1)).max(1);
    Ok(t.to_vec::<f32>()?.chunks(row).map(|r| r.iter().map(|&v| f64::from(v)).collect()).collect())
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// Absolute cosines of all pairs.
fn cosines(rows: &[Vec<f64>]) -> Vec<f64> {
    let pairs = (0..rows.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    pairs.map(|(i, j)| cosine(&rows[i], &rows[j]).abs()).collect()
}

/// Sum of squares over channels, normalised to 1 over the positions of each map `[n h w c]`.
fn attention(map: &Tensor) -> Result<Vec<Vec<f64>>> {
    let c = map.dim(3);
    let mut all = rows(map)?;
    for a in &mut all {
        let energy: Vec<f64> = a.chunks(c).map(|p| p.iter().map(|v| v * v).sum()).collect();
        let total = energy.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        *a = energy.iter().map(|e| e / total).collect();
    }
    Ok(all)
}

/// Centre of mass `(y, x)` of a map of width `w`, in units of its sides.
fn center(a: &[f64], w: usize) -> Vec<f64> {
    let h = a.len() / w;
    let mut at = vec![0.0; 2];
    for (i, v) in a.iter().enumerate() {
        at[0] += v * ((i / w) as f64 + 0.5) / h as f64;
        at[1] += v * ((i % w) as f64 + 0.5) / w as f64;
    }
    at
}

/// Mean squared distances: of class means from the overall mean (weighted by size), and of rows from their class's mean.
fn variances(rows: &[Vec<f64>], labels: &[i32]) -> (f64, f64) {
    let Some(width) = rows.first().map(Vec::len) else { return (0.0, 0.0) };
    let mean = |which: &[&Vec<f64>]| -> Vec<f64> {
        (0..width).map(|k| which.iter().map(|r| r[k]).sum::<f64>() / which.len() as f64).collect()
    };
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let overall = mean(&rows.iter().collect::<Vec<_>>());
    let (mut between, mut within) = (0.0, 0.0);
    let mut classes = labels.to_vec();
    classes.sort_unstable();
    classes.dedup();
    for class in classes {
        let own: Vec<&Vec<f64>> = rows.iter().zip(labels).filter(|(_, l)| **l == class).map(|(r, _)| r).collect();
        let center = mean(&own);
        between += own.len() as f64 * distance(&center, &overall);
        within += own.iter().map(|r| distance(r, &center)).sum::<f64>();
    }
    (between / rows.len() as f64, within / rows.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn measures_follow_from_their_definitions() {
        // Two classes on a line: means 1 and 5 around 3, rows 1 away from their own mean.
        let rows = [0.0, 2.0, 4.0, 6.0].map(|v| vec![v]);
        assert_eq!(variances(&rows, &[0, 0, 1, 1]), (4.0, 1.0));
        let x = Tensor::from_slice(&Device::cpu(), [1, 2, 2, 1], &[0.0f32, 0.0, 0.0, 3.0]).unwrap();
        let a = attention(&x).unwrap();
        assert_eq!(a[0], [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(center(&a[0], 2), [0.75, 0.75]);
        assert_eq!(cosines(&[vec![1.0, 0.0], vec![-2.0, 0.0], vec![0.0, 1.0]]), [1.0, 0.0, 0.0]);
    }
}
