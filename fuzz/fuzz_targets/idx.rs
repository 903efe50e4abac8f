#![no_main]

use ghostbit::data::idx::{join, parse};
use libfuzzer_sys::fuzz_target;

// The first two bytes say where the image file ends and the label file begins.
fuzz_target!(|data: &[u8]| {
    let Some((head, files)) = data.split_at_checked(2) else { return };
    let cut = usize::from(u16::from_le_bytes([head[0], head[1]])).min(files.len());
    let (images, labels) = files.split_at(cut);
    if let (Ok(images), Ok(labels)) = (parse(images), parse(labels)) {
        if let Ok(set) = join(images, labels) {
            assert_eq!(set.images.len(), set.n * set.h * set.w * set.c);
            assert!(set.labels.iter().all(|&l| (l as usize) < set.classes));
        }
    }
});
