//! Pictures and tables of a run.

use ghostbit::data::{Normalization, procedural};
use ghostbit::device::Device;
use ghostbit::report::{Series, Table, curves, grid, save_grid};
use ghostbit::tensor::Tensor;

#[test]
fn grids_show_the_images() {
    let cpu = Device::cpu();
    let set = procedural::generate(procedural::Split::Test, 100);
    let norm = Normalization::CIFAR;
    let (x, _) = set.batch(&cpu, 0..3, &norm).unwrap();
    let g = grid(&x, &norm, 2, 1).unwrap();
    assert_eq!(g.dimensions(), (2 * 34 + 2, 2 * 34 + 2));
    assert_eq!(g.get_pixel(2, 2).0, set.images[..3]);
    assert_eq!(g.get_pixel(2 + 31, 36 + 31).0, set.images[3 * 3072 - 3..3 * 3072]);
    let grey = Tensor::from_slice(&cpu, [1, 1, 2, 1], &[f32::NAN, 1e9]).unwrap();
    let g = grid(&grey, &norm, 8, 1).unwrap();
    assert_eq!((g.get_pixel(2, 2).0, g.get_pixel(3, 2).0), ([0; 3], [255; 3]));
    assert!(grid(&Tensor::scalar(&cpu, 1.0).unwrap(), &norm, 8, 1).is_err());

    let dir = tempfile::tempdir().unwrap();
    let (x, _) = set.batch(&cpu, 0..32, &norm).unwrap();
    save_grid(dir.path().join("g.png"), &x, &norm).unwrap();
    assert!(std::fs::read(dir.path().join("g.png")).unwrap().starts_with(b"\x89PNG"));
    if let Ok(out) = std::env::var("GHOSTBIT_SHOW") {
        save_grid(std::path::Path::new(&out).join("builtin.png"), &x, &norm).unwrap();
    }
}

#[test]
fn curves_survive_any_values() {
    let dir = tempfile::tempdir().unwrap();
    let out = std::env::var("GHOSTBIT_SHOW").map_or(dir.path().to_path_buf(), Into::into);
    let line = |f: fn(f64) -> f64| (0..200).map(|i| (f64::from(i) * 10.0, f(f64::from(i)))).collect::<Vec<_>>();
    let panels = [
        (
            "loss".to_string(),
            vec![
                Series::new("student kl", line(|x| 2.0 / (1.0 + x / 20.0))),
                Series::new("generator ce", line(|x| 1.5 + (x / 9.0).sin())),
            ],
        ),
        ("accuracy %".to_string(), vec![Series::new("top-1", vec![(0.0, 89.0)])]),
        (
            "strange".to_string(),
            vec![Series::new("nan", line(|_| f64::NAN)), Series::new("huge", vec![(0.0, -1.7e308), (1.0, 1.7e308)])],
        ),
        (
            "tiny".to_string(),
            vec![Series::new("tiny", vec![(0.0, 1e-320), (1.0, 2e-320)]), Series::new("none", vec![])],
        ),
        ("empty".to_string(), vec![]),
    ];
    curves(out.join("curves.png"), &panels).unwrap();
    assert!(std::fs::read(out.join("curves.png")).unwrap().starts_with(b"\x89PNG"));
    assert!(curves(out.join("no.png"), &[]).is_err());
}

#[test]
fn tables_line_up() {
    let mut t = Table::new(["layer", "bits"]);
    t.row(["conv1", "8"]).row(["a", "16", "dropped"]).row(["b"]);
    assert_eq!(t.to_string(), "layer  bits\n-----------\nconv1     8\na        16\nb\n");
}
