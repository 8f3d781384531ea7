//! What a job may use, as it was asked for. Each limit knows the cgroup v2 file that carries it
//! (Documentation/admin-guide/cgroup-v2.rst), so that writing, reading back and reporting share one table.

use crate::units::{UnitError, parse_size};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A controller of cgroup v2 that a limit needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// CPU bandwidth and weight.
    Cpu,
    /// Which processors and memory nodes.
    Cpuset,
    /// Block devices.
    Io,
    /// Memory and swap.
    Memory,
    /// The number of processes and threads.
    Pids,
}

impl Controller {
    /// All that jobcage uses.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Cpuset, Self::Io, Self::Memory, Self::Pids];

    /// The name in `cgroup.controllers`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// A share of CPU time: `quota` microseconds in each `period` (`cpu.max`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMax {
    /// Microseconds of CPU time in a period, over all processors.
    pub quota: u64,
    /// The period in microseconds.
    pub period: u64,
}

impl FromStr for CpuMax {
    type Err = UnitError;

    /// `1.5` (processors), `150%` (of one processor).
    fn from_str(given: &str) -> Result<Self, UnitError> {
        const PERIOD: u64 = 100_000;
        let err = |why: &str| {
            UnitError::new(
                given,
                "CPU share",
                why,
                "write processors, 1.5, or percent of one, 150%",
            )
        };
        let (number, per) = match given.trim().strip_suffix('%') {
            Some(percent) => (percent, 100.0),
            None => (given.trim(), 1.0),
        };
        let plain = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.');
        let share = number
            .parse::<f64>()
            .ok()
            .filter(|_| plain)
            .ok_or_else(|| err("not a number"))?
            / per;
        let quota = share * PERIOD as f64;
        // The kernel refuses a quota below 1 ms.
        if !(1000.0..=1e12).contains(&quota) {
            return Err(err("less than 1% or too large"));
        }
        Ok(Self {
            quota: quota.round() as u64,
            period: PERIOD,
        })
    }
}

/// A limit on one block device (`io.max`): `8:0 rbps=1048576`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimit {
    /// The device, `major:minor`, or the path of a device or of a file on it, resolved where the limit is set.
    pub device: String,
    /// Pairs of `rbps`, `wbps`, `riops`, `wiops` and their values per second.
    pub rates: Vec<(String, u64)>,
}

impl FromStr for IoLimit {
    type Err = UnitError;

    /// `DEVICE:rbps=10M,wiops=200`, where DEVICE is `8:0` or a path.
    fn from_str(given: &str) -> Result<Self, UnitError> {
        let err = |why: &str| {
            UnitError::new(
                given,
                "IO limit",
                why,
                "write DEVICE:rbps=10M,wiops=200; DEVICE is 8:0 or a path",
            )
        };
        let (device, rates) = given
            .rsplit_once(':')
            .ok_or_else(|| err("no ':' after the device"))?;
        if device.is_empty() || device.contains(|c: char| c.is_control()) {
            return Err(err("no device"));
        }
        let mut limit = Self {
            device: device.into(),
            rates: Vec::new(),
        };
        for rate in rates.split(',') {
            let (key, value) = rate.split_once('=').ok_or_else(|| err("a rate has no '='"))?;
            if !["rbps", "wbps", "riops", "wiops"].contains(&key) {
                return Err(err("the rates are rbps, wbps, riops, wiops"));
            }
            limit.rates.push((key.into(), parse_size(value)?));
        }
        Ok(limit)
    }
}

/// All limits of a job. `None` and empty mean: not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// `cpu.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuMax>,
    /// `memory.max`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// `memory.high`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<u64>,
    /// `memory.swap.max`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<u64>,
    /// `pids.max`: processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// `io.max`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoLimit>,
    /// `cpuset.cpus`, in the kernel's list format: `0-3,6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<String>,
}

/// One limit, ready for its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The controller that has to be enabled for it.
    pub controller: Controller,
    /// The file below the cgroup.
    pub file: &'static str,
    /// What to write.
    pub value: String,
}

impl Limits {
    /// The limits that were asked for, as writes; `io.max` once a device, its device still unresolved.
    #[must_use]
    pub fn writes(&self) -> Vec<Limit> {
        let mut list = Vec::new();
        let mut add = |controller, file, value: Option<String>| {
            list.extend(value.map(|value| Limit {
                controller,
                file,
                value,
            }));
        };
        let bytes = |n: Option<u64>| n.map(|n| n.to_string());
        add(
            Controller::Cpu,
            "cpu.max",
            self.cpu.map(|c| format!("{} {}", c.quota, c.period)),
        );
        add(Controller::Cpuset, "cpuset.cpus", self.cpus.clone());
        // The order matters: a high above max is legal, and the swap limit makes memory.max hold.
        add(Controller::Memory, "memory.swap.max", bytes(self.swap));
        add(Controller::Memory, "memory.high", bytes(self.memory_high));
        add(Controller::Memory, "memory.max", bytes(self.memory));
        add(Controller::Pids, "pids.max", bytes(self.pids));
        for io in &self.io {
            let rates: Vec<_> = io.rates.iter().map(|(k, v)| format!("{k}={v}")).collect();
            add(
                Controller::Io,
                "io.max",
                Some(format!("{} {}", io.device, rates.join(" "))),
            );
        }
        list
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_of_cpu() {
        assert_eq!(
            "1.5".parse(),
            Ok(CpuMax {
                quota: 150_000,
                period: 100_000
            })
        );
        assert_eq!(
            "20%".parse(),
            Ok(CpuMax {
                quota: 20_000,
                period: 100_000
            })
        );
        for bad in ["", "0", "-1", "%", "1e5", "inf", "0.5%"] {
            assert!(bad.parse::<CpuMax>().is_err(), "{bad}");
        }
    }

    #[test]
    fn io_limits_take_numbers_and_paths() {
        let io: IoLimit = "8:0:rbps=1M,wiops=20".parse().unwrap();
        assert_eq!((io.device.as_str(), io.rates.len()), ("8:0", 2));
        assert_eq!("/dev/vda:wbps=5".parse::<IoLimit>().unwrap().device, "/dev/vda");
        for bad in ["", "8:0", "x:y=1", ":rbps=1", "8:0:rbps", "a\nb:rbps=1"] {
            assert!(bad.parse::<IoLimit>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<CpuMax>();
            let _ = text.parse::<IoLimit>();
        }
    }
}
