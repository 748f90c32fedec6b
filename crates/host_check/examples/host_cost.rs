//! Prints what the survey and the KVM probe cost on this host: medians of a few runs.

use host_check::{Root, facts::Kvm, kvm_probe, survey};
use std::path::Path;
use std::time::{Duration, Instant};

fn median(runs: u32, mut work: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let probed = Root::host().without_probe_record();
    println!(
        "verdict                 {}",
        match survey(&probed).kvm {
            Kvm::Usable => "KVM is usable".to_owned(),
            Kvm::Unusable(why) => why,
        }
    );
    let probe = median(21, || drop(kvm_probe::run(Path::new("/dev/kvm"))));
    println!("probe                   {probe:?}");
    println!("survey, with the probe  {:?}", median(21, || drop(survey(&probed))));
    let recorded = Root::host();
    println!("survey, first           {:?}", median(1, || drop(survey(&recorded))));
    println!("survey, probe on record {:?}", median(21, || drop(survey(&recorded))));
}
