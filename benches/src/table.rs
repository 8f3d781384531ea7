//! What was measured, and how it is shown: aligned text, Markdown, JSON.

use crate::Result;
use crate::contest::Samples;
use crate::stats::{Summary, ratios};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A goal of docs/performance.md. It is told whether it was met; nothing fails by a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Its name there.
    pub id: String,
    /// Who is measured.
    pub case: String,
    /// Against whom; `None`: the value itself.
    pub base: Option<String>,
    /// At most; `None`: no goal, only told.
    pub limit: Option<f64>,
    /// Not at most but at least.
    pub at_least: bool,
    /// Over the rounds: the median, or for `true` the 99th percentile.
    pub p99: bool,
}

impl Target {
    /// The median of the paired ratios.
    #[must_use]
    pub fn ratio(id: &str, case: &str, base: &str, limit: f64) -> Self {
        Self {
            id: id.into(),
            case: case.into(),
            base: Some(base.into()),
            limit: Some(limit),
            at_least: false,
            p99: false,
        }
    }

    /// The median of the paired ratios to a peer for which no goal was set.
    #[must_use]
    pub fn beside(id: &str, case: &str, base: &str) -> Self {
        let limit = None;
        Self {
            limit,
            ..Self::ratio(id, case, base, 0.0)
        }
    }

    /// The same goal from the other side: more is better.
    #[must_use]
    pub fn at_least(self) -> Self {
        Self {
            at_least: true,
            ..self
        }
    }

    /// The value itself.
    #[must_use]
    pub fn value(id: &str, case: &str, limit: f64) -> Self {
        Self {
            id: id.into(),
            case: case.into(),
            base: None,
            limit: Some(limit),
            at_least: false,
            p99: false,
        }
    }

    fn told(&self, table: &Table) -> Option<String> {
        let values = table.samples.of(&self.case)?;
        let measured = match &self.base {
            Some(base) => ratios(values, table.samples.of(base)?),
            None => values.to_vec(),
        };
        let Summary { q1, median, q3, p99 } = Summary::of(&measured)?;
        let judged = if self.p99 { p99 } else { median };
        let verdict = self.limit.map_or_else(String::new, |limit| {
            let is_met = if self.at_least {
                judged >= limit
            } else {
                judged <= limit
            };
            let (verdict, least) = (
                if is_met { "met" } else { "MISSED" },
                if self.at_least { "at least " } else { "" },
            );
            format!(", target {least}{}: {verdict}", short(limit))
        });
        let what = self
            .base
            .as_ref()
            .map_or_else(|| table.unit.clone(), |base| format!("of {base}"));
        let at = if self.p99 {
            format!(", p99 {}", short(p99))
        } else {
            String::new()
        };
        let (median, q1, q3) = (short(median), short(q1), short(q3));
        Some(format!(
            "{} {}: {median} ({q1}-{q3}{at}) {what}{verdict}",
            self.id, self.case
        ))
    }
}

/// One measure of one case.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// What it is called in docs/performance.md.
    pub id: String,
    /// In words.
    pub title: String,
    /// Of the values.
    pub unit: String,
    /// The contestant by whom the others are divided.
    pub base: String,
    /// The values.
    pub samples: Samples,
    /// The goals.
    pub targets: Vec<Target>,
    /// Who was skipped and why, and what else has to be known.
    pub notes: Vec<String>,
}

impl Table {
    /// A table without targets and notes yet.
    #[must_use]
    pub fn new(id: &str, title: &str, unit: &str, base: &str, samples: Samples) -> Self {
        let (id, title, unit, base) = (id.into(), title.into(), unit.into(), base.into());
        Self {
            id,
            title,
            unit,
            base,
            samples,
            targets: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The same with its targets.
    #[must_use]
    pub fn aim(mut self, targets: Vec<Target>) -> Self {
        self.targets = targets;
        self
    }

    /// The same with notes.
    #[must_use]
    pub fn note(mut self, notes: &[String]) -> Self {
        self.notes.extend_from_slice(notes);
        self
    }

    fn rows(&self) -> Vec<[String; 6]> {
        let base = self.samples.of(&self.base).unwrap_or_default();
        let row = |(name, values): (&String, &Vec<f64>)| {
            let summary = Summary::of(values)?;
            let ratio = Summary::of(&ratios(values, base)).map_or_else(Default::default, |ratio| {
                format!(
                    "{} ({}-{})",
                    short(ratio.median),
                    short(ratio.q1),
                    short(ratio.q3)
                )
            });
            let spread = format!("{}-{}", short(summary.q1), short(summary.q3));
            let rounds = values.len().to_string();
            Some([
                name.clone(),
                short(summary.median),
                spread,
                short(summary.p99),
                ratio,
                rounds,
            ])
        };
        self.samples
            .names
            .iter()
            .zip(&self.samples.values)
            .filter_map(row)
            .collect()
    }

    /// As text for a person, or as Markdown.
    #[must_use]
    pub fn render(&self, markdown: bool) -> String {
        let median = format!("median, {}", self.unit);
        let ratio = format!("ratio to {}", self.base);
        let head = ["", median.as_str(), "quartiles", "p99", ratio.as_str(), "rounds"].map(String::from);
        let mut rows = vec![head];
        rows.extend(self.rows());
        let width = |column: usize| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        let mut text = format!(
            "{}{}: {}\n\n",
            if markdown { "### " } else { "" },
            self.id,
            self.title
        );
        for (number, row) in rows.iter().enumerate() {
            let cells: Vec<_> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            let line = if markdown {
                format!("| {} |", cells.join(" | "))
            } else {
                cells.join("  ")
            };
            text.push_str(line.trim_end());
            text.push('\n');
            if number == 0 && markdown {
                let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
                // Writing to a String cannot fail.
                let _ = writeln!(text, "| {} |", rule.join(" | "));
            }
        }
        let verdicts = self.targets.iter().filter_map(|target| target.told(self));
        for (number, line) in verdicts.chain(self.notes.iter().cloned()).enumerate() {
            let gap = if number == 0 { "\n" } else { "" };
            let _ = writeln!(text, "{gap}{}{line}", if markdown { "- " } else { "  " });
        }
        text
    }

    /// Every sample.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let base = self.samples.of(&self.base).unwrap_or_default();
        let summary = |values: &[f64]| {
            Summary::of(values).map(|s| json!({"q1": s.q1, "median": s.median, "q3": s.q3, "p99": s.p99}))
        };
        let rows: Vec<_> = self.samples.names.iter().zip(&self.samples.values).map(|(name, values)| {
            json!({"name": name, "samples": values, "value": summary(values), "ratio": summary(&ratios(values, base))})
        }).collect();
        let targets: Vec<_> = self
            .targets
            .iter()
            .map(|target| {
                json!({"id": target.id, "case": target.case, "base": target.base, "limit": target.limit,
                   "at_least": target.at_least, "p99": target.p99})
            })
            .collect();
        json!({"id": self.id, "title": self.title, "unit": self.unit, "base": self.base, "rows": rows,
               "targets": targets, "notes": self.notes})
    }

    /// Back from JSON: from the part of us that runs as another user.
    pub fn from_json(value: &Value) -> Result<Self> {
        let text = |value: &Value, key: &str| {
            value[key]
                .as_str()
                .map(String::from)
                .ok_or_else(|| format!("no {key} in a worker's table"))
        };
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let mut samples = Samples::default();
        for row in list(value, "rows") {
            samples.names.push(text(&row, "name")?);
            samples
                .values
                .push(list(&row, "samples").iter().filter_map(Value::as_f64).collect());
        }
        let target = |target: &Value| -> Result<Target> {
            Ok(Target {
                id: text(target, "id")?,
                case: text(target, "case")?,
                base: target["base"].as_str().map(String::from),
                limit: target["limit"].as_f64(),
                at_least: target["at_least"].as_bool().unwrap_or(false),
                p99: target["p99"].as_bool().unwrap_or(false),
            })
        };
        let targets = list(value, "targets").iter().map(target).collect::<Result<_>>()?;
        let notes = list(value, "notes")
            .iter()
            .filter_map(|note| note.as_str().map(String::from))
            .collect();
        let (id, title) = (text(value, "id")?, text(value, "title")?);
        let (unit, base) = (text(value, "unit")?, text(value, "base")?);
        Ok(Self {
            id,
            title,
            unit,
            base,
            samples,
            targets,
            notes,
        })
    }
}

/// Three digits that count.
fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 || number.fract() == 0.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 0.1 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let samples = Samples {
            names: vec!["floor".into(), "jobcage".into()],
            values: vec![vec![1.0, 2.0, 4.0], vec![1.2, 2.4, 8.0]],
        };
        Table::new("L1", "launch", "ms", "floor", samples)
    }

    #[test]
    fn a_target_is_judged_by_the_median_of_the_ratios() {
        let met = table()
            .aim(vec![Target::ratio("L1", "jobcage", "floor", 1.5)])
            .render(false);
        assert!(
            met.contains("L1 jobcage: 1.20 (1.20-1.60) of floor, target 1.50: met"),
            "{met}"
        );
        let missed = table()
            .aim(vec![Target::ratio("L1", "jobcage", "floor", 1.1)])
            .render(false);
        assert!(missed.contains("MISSED"), "{missed}");
        let more = table()
            .aim(vec![Target::ratio("D3", "jobcage", "floor", 1.1).at_least()])
            .render(false);
        assert!(more.contains("target at least 1.10: met"), "{more}");
        let beside = table()
            .aim(vec![Target::beside("L2", "jobcage", "floor")])
            .render(false);
        assert!(
            beside.contains("L2 jobcage: 1.20 (1.20-1.60) of floor\n"),
            "{beside}"
        );
        let absent = table()
            .aim(vec![Target::ratio("L2", "jobcage", "runc", 0.08)])
            .render(false);
        assert!(!absent.contains("L2"), "{absent}");
    }

    #[test]
    fn markdown_has_its_rule_below_the_head() {
        let text = table().note(&["SKIPPED runc: not there".into()]).render(true);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("### L1"), "{text}");
        assert!(lines[3].starts_with("| --"), "{text}");
        assert!(text.ends_with("- SKIPPED runc: not there\n"), "{text}");
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let table = table()
            .aim(vec![
                Target::value("K2", "jobcage", 2.0),
                Target::beside("L2", "jobcage", "floor"),
                Target::ratio("D3", "jobcage", "floor", 0.6).at_least(),
            ])
            .note(&["a note".into()]);
        assert_eq!(Table::from_json(&table.to_json()).expect("our own"), table);
    }
}
