//! A function of the host in a slot of the guest's bus.

use super::bars::Bars;
use super::config::{MsixPlace, Shown};
use super::device::CONFIG;
use super::vectors::Vectors;
use super::{Hardware, bars};
use crate::pci::Function;
use crate::pci::config::{BAR_AND_COMMAND, ConfigSpace};
use std::io;
use std::ops::Range;

const COMMAND: usize = 0x04;
/// Command register: decode memory, be bus master, no INTx.
const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;
const NO_INTX: u16 = 1 << 10;

/// The function.
pub struct HostFunction {
    name: String,
    hardware: Box<dyn Hardware>,
    config: ConfigSpace,
    msix: MsixPlace,
    vectors: Vectors,
    bars: Bars,
    master: Option<bool>,
    /// A failure was told: a guest can cause them at will.
    told: bool,
}

/// What an offset of a BAR is.
enum What {
    Table(u64),
    Pending(u64),
    Register,
    /// A bit of both.
    Nothing,
}

impl HostFunction {
    /// The device `hardware`, called `name`, as `shown`. It decodes memory on the host from now on: what the guest reaches of that is told by
    /// the guest's own command register.
    pub fn new(name: &str, hardware: Box<dyn Hardware>, shown: Shown, vectors: Vectors, bars: Bars) -> Self {
        let Shown { config, msix } = shown;
        let name = name.to_string();
        let mut function =
            HostFunction { name, hardware, config, msix, vectors, bars, master: None, told: false };
        function.command();
        function
    }

    /// Tells the device what of the guest's command register concerns it.
    fn command(&mut self) {
        let mut command = [0; 2];
        self.config.read(COMMAND, &mut command);
        let master = u16::from_le_bytes(command) & MASTER != 0;
        if self.master != Some(master) {
            let command = MEMORY | NO_INTX | if master { MASTER } else { 0 };
            self.hardware.write(CONFIG, COMMAND as u64, &command.to_le_bytes());
            self.master = Some(master);
        }
    }

    fn what(&self, bar: usize, offset: u64, length: usize) -> What {
        let end = offset.saturating_add(length as u64);
        let meets =
            |(index, range): &(usize, Range<u64>)| *index == bar && offset < range.end && range.start < end;
        let inside = |range: &Range<u64>| range.start <= offset && end <= range.end;
        let MsixPlace { table, pending, .. } = &self.msix;
        match (meets(table), meets(pending)) {
            (true, _) if inside(&table.1) => What::Table(offset - table.1.start),
            (_, true) if inside(&pending.1) => What::Pending(offset - pending.1.start),
            (false, false) => What::Register,
            _ => What::Nothing,
        }
    }

    fn tell(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.told, true)
        {
            eprintln!("clear-vmm: interrupts of PCI function {}: {error}", self.name);
        }
    }
}

impl Function for HostFunction {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_written(&mut self, offset: usize, length: usize) {
        let touches = |at: usize| (offset..offset + length).contains(&at);
        if touches(self.msix.control) {
            let mut high = [0];
            self.config.read(self.msix.control, &mut high);
            let result = self.vectors.control(&*self.hardware, high[0]);
            self.tell(result);
        }
        if BAR_AND_COMMAND.clone().any(touches) {
            self.command();
            self.bars.follow(&self.config.decoded());
        }
    }

    fn read_bar(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        match self.what(bar, offset, data.len()) {
            What::Table(at) => self.vectors.read(at, data),
            What::Pending(at) => self.vectors.read_pending(at, data),
            What::Register => self.hardware.read(bar, offset, data),
            What::Nothing => {}
        }
    }

    fn write_bar(&mut self, bar: usize, offset: u64, data: &[u8]) {
        match self.what(bar, offset, data.len()) {
            What::Table(at) => {
                let result = self.vectors.write(at, data);
                self.tell(result);
            }
            What::Register => self.hardware.write(bar, offset, data),
            What::Pending(_) | What::Nothing => {}
        }
    }
}

/// Which parts of the BARs are mapped: see [`bars::mappable`].
pub fn parts(shown: &Shown) -> Vec<(usize, Range<u64>)> {
    let of = |index: usize| {
        let size = shown.config.bar(index).map_or(0, |bar| bar.size);
        bars::mappable(index, size, &shown.msix).into_iter().map(move |range| (index, range))
    };
    (0..crate::pci::config::BARS).flat_map(of).collect()
}
