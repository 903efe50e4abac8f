//! `--images`: the user's own images, without labels, in place of synthetic ones.

use crate::data::{Dataset, Normalization, folder};
use crate::device::Device;
use crate::graph::{Graph, InputKind};
use crate::ops::random;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::path::Path;

/// Draws of the choice, away from the loop's.
const CHOICE: u64 = 1 << 44;

/// Loads up to `most` images of `spec`, a folder of image files or a data set as `--eval` takes, for `graph`: normalized
/// `[n h w c]` on `device`. Which ones, and in what order, is drawn from `seed`. Labels of a set are not looked at.
///
/// Errors name `--images`, or the file at fault.
pub fn load(
    spec: &str,
    graph: &Graph,
    norm: &Normalization,
    most: usize,
    seed: u64,
    device: &Device,
) -> Result<Tensor> {
    let fail = |detail: String| Err(Error::config("--images", detail));
    let [InputKind::Real(sample)] = &graph.inputs[..] else { return fail("the network takes no images".into()) };
    let &[h, w, c] = &sample[..] else { return fail(format!("the network takes {sample:?}, which are no images")) };
    let path = Path::new(spec);
    if path.is_dir() {
        let files = folder::list(path)?;
        let chosen: Vec<_> = choose(files.len(), most, seed)?.into_iter().map(|i| files[i].clone()).collect();
        let set = folder::read(&chosen, [h, w, c])?;
        return Ok(set.batch(device, 0..set.n, norm)?.0);
    }
    if !spec.contains(':') {
        return fail(format!("'{spec}' is no folder; give one, or a set such as cifar10:FILE or idx:IMAGES,LABELS"));
    }
    let set = Dataset::open(spec)?;
    if [set.h, set.w, set.c] != [h, w, c] {
        return fail(format!("{spec} holds {}x{}x{} images; the network takes {h}x{w}x{c}", set.h, set.w, set.c));
    }
    Ok(set.gather(device, &choose(set.n, most, seed)?, norm)?.0)
}

/// Draws up to `most` different numbers below `n`: the first of a permutation (Fisher-Yates).
fn choose(n: usize, most: usize, seed: u64) -> Result<Vec<usize>> {
    let count = n.min(most);
    let mut all: Vec<usize> = (0..n).collect();
    if count > 0 {
        let draws = random::uniform(&Device::cpu(), [count], seed, CHOICE)?.to_vec::<f32>()?;
        for (i, u) in draws.into_iter().enumerate() {
            all.swap(i, i + ((u * (n - i) as f32) as usize).min(n - i - 1));
        }
    }
    all.truncate(count);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_repeats_no_image_and_depends_on_the_seed() {
        let mut chosen = choose(100, 40, 7).unwrap();
        assert_eq!(chosen, choose(100, 40, 7).unwrap());
        assert_ne!(chosen, choose(100, 40, 8).unwrap());
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 40);
        let mut all = choose(5, 9, 1).unwrap();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }
}
