//! Curves of a run's metrics as a PNG: one panel per group of series, x in steps.

use super::lettering;
use crate::{Error, Result};
use plotters::prelude::*;
use std::path::Path;

/// One line of a panel. Points that are not finite are left out.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// (step, value).
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points }
    }
}

const WIDTH: u32 = 800;
const PANEL: u32 = 240;
/// Left, right, top, bottom margins of a panel's axes.
const MARGIN: (i32, i32, i32, i32) = (64, 16, 24, 22);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 87, 164),
    RGBColor(200, 82, 0),
    RGBColor(28, 125, 64),
    RGBColor(150, 40, 120),
    RGBColor(110, 85, 30),
    RGBColor(70, 70, 70),
];

/// Draws panels below each other into the PNG file `path`: (title, series) each. Panels without a finite point stay
/// empty.
pub fn curves(path: impl AsRef<Path>, panels: &[(String, Vec<Series>)]) -> Result<()> {
    let path = path.as_ref();
    if panels.is_empty() {
        return Err(Error::file(path, "there is nothing to plot"));
    }
    let height = PANEL * panels.len() as u32;
    let mut pixels = vec![255u8; (WIDTH * height * 3) as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, (WIDTH, height)).into_drawing_area();
        for (area, (title, series)) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
            panel(area, title, series).map_err(|e| Error::file(path, format!("cannot be drawn: {e}")))?;
        }
        root.present().map_err(|e| Error::file(path, format!("cannot be drawn: {e}")))?;
    }
    let image = image::RgbImage::from_raw(WIDTH, height, pixels)
        .ok_or_else(|| Error::file(path, "cannot be drawn: wrong buffer size"))?;
    super::png::save(path, &image)
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn text(area: &Area, line: &str, (x, y): (i32, i32), colour: RGBColor) -> Drawn {
    let mut failed = None;
    lettering::draw(line, |dx, dy| failed = area.draw_pixel((x + dx, y + dy), &colour).err().or(failed.take()));
    failed.map_or(Ok(()), |e| Err(Box::new(e) as _))
}

fn panel(area: &Area, title: &str, series: &[Series]) -> Drawn {
    let (left, right, top, bottom) = MARGIN;
    let (w, h) = area.dim_in_pixel();
    let (x1, y1) = (w as i32 - right, h as i32 - bottom);
    text(area, title, (left, 8), BLACK)?;
    let finite: Vec<Vec<(f64, f64)>> = series
        .iter()
        .map(|s| s.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect())
        .collect();
    let all = || finite.iter().flatten();
    let x_ticks = ticks(all().map(|p| p.0));
    let y_ticks = ticks(all().map(|p| p.1));
    let place = |v: f64, t: &[f64], lo: i32, hi: i32| {
        let (first, last) = (t[0], t[t.len() - 1]);
        lo + (((v - first) / (last - first)).clamp(0.0, 1.0) * f64::from(hi - lo)).round() as i32
    };
    let grey = RGBColor(225, 225, 225);
    for &v in &y_ticks {
        let y = place(v, &y_ticks, y1, top);
        area.draw(&PathElement::new(vec![(left, y), (x1, y)], grey))?;
        let label = number(v, &y_ticks);
        text(area, &label, (left - 6 - lettering::width(&label), y - lettering::SIZE.1 / 2), BLACK)?;
    }
    for &v in &x_ticks {
        let x = place(v, &x_ticks, left, x1);
        area.draw(&PathElement::new(vec![(x, top), (x, y1)], grey))?;
        let label = number(v, &x_ticks);
        let half = lettering::width(&label) / 2;
        text(area, &label, ((x - half).min(w as i32 - 2 * half), y1 + 8), BLACK)?;
    }
    area.draw(&PathElement::new(vec![(left, top), (left, y1), (x1, y1)], BLACK))?;
    let mut legend = left + lettering::width(title) + 24;
    for (i, (s, points)) in series.iter().zip(&finite).enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let path: Vec<_> =
            points.iter().map(|p| (place(p.0, &x_ticks, left, x1), place(p.1, &y_ticks, y1, top))).collect();
        area.draw(&PathElement::new(path.clone(), colour.stroke_width(2)))?;
        if let [(x, y)] = path[..] {
            area.draw(&Circle::new((x, y), 3, colour.filled()))?;
        }
        area.draw(&Rectangle::new([(legend, 9), (legend + 10, 13)], colour.filled()))?;
        text(area, &s.name, (legend + 14, 8), BLACK)?;
        legend += 30 + lettering::width(&s.name);
    }
    Ok(())
}

/// About five round numbers that enclose the values, at least two.
fn ticks(values: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let (lo, hi) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    // No values, or a range too small or too large to be divided.
    let (lo, hi) = if lo > hi { (0.0, 1.0) } else { (lo.max(-1e300), hi.min(1e300)) };
    let least = lo.abs().max(hi.abs()) * 1e-6;
    let (lo, hi) = if hi - lo <= least.max(1e-12) {
        let half = (0.05 * hi.abs()).max(0.5);
        (lo - half, hi + half)
    } else {
        (lo, hi)
    };
    let rough = (hi - lo) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(10.0 * power);
    let (first, last) = ((lo / step).floor(), (hi / step).ceil().max((lo / step).floor() + 1.0));
    (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect()
}

/// A tick's label, with as many decimals as the distance of the ticks asks for.
fn number(v: f64, ticks: &[f64]) -> String {
    let step = ticks[1] - ticks[0];
    let large = ticks.iter().fold(0.0f64, |a, t| a.max(t.abs()));
    if large >= 1e6 || step < 1e-4 {
        return format!("{v:.1e}");
    }
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    format!("{v:.decimals$}")
}
