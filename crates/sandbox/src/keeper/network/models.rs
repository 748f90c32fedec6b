//! How a device and its interface are joined: `network.model`.
//!
//! ```text
//!   tc       a tap that can have any interface, whenever it comes; redirected both ways
//!   bridge   such a tap, and a bridge for the two
//!   macvtap  one for each interface that is there before the VMM; the devices that are left have taps, as with tc
//! ```
//!
//! Bridges and macvtaps do not end with the VMM, as taps do: they are on the undo list where the namespace outlives the keeper.

use super::{Keeper, Network, Port};
use crate::configuration::NetworkModel;
use crate::host::HostError;
use crate::host::network::bridge::Bridge;
use crate::host::network::link::{self, Lasting};
use crate::host::network::redirect::{self, Cookie};
use crate::host::network::scan::Found;
use crate::host::network::tap::{self, Tap};
use crate::host::network::{NetworkError, macvtap};
use crate::host::undo::{self, Undo};
use crate::state::StateDir;
use guest_protocol::network::Interface;
use netlink::Socket;
use std::fs::File;
use std::path::PathBuf;

/// How an interface and its tap are joined.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Join {
    Redirects,
    Bridge(Bridge),
    Macvtap,
}

/// Whose the effects are.
pub(super) struct Owner<'a> {
    pub dir: &'a StateDir,
    pub namespace: &'a Option<PathBuf>,
    pub cookie: &'a Cookie,
}

impl Owner<'_> {
    /// An effect is about to begin in a namespace that outlives the keeper.
    fn note(&self, undo: impl FnOnce(PathBuf) -> Undo) -> Result<(), HostError> {
        self.namespace.clone().map_or(Ok(()), |namespace| undo::note(self.dir, &undo(namespace)))
    }

    /// As [`Owner::note`], for the ingress discipline of an interface.
    pub fn note_redirect(&self, interface: u32) -> Result<(), HostError> {
        self.note(|namespace| Undo::Redirect { namespace, interface, cookie: *self.cookie })
    }

    fn note_link(&self, name: &str) -> Result<(), HostError> {
        self.note(|namespace| Undo::Link { namespace, name: name.to_string() })
    }

    /// Makes the tap of device `number`: on the interface `on`, if it is to be a macvtap.
    pub fn make(
        &self,
        socket: &mut Socket,
        number: usize,
        (on, take_over): (Option<&Found>, bool),
        queues: u32,
    ) -> Result<(Tap, Vec<File>), HostError> {
        let Some(Found { index, interface, .. }) = on else {
            let (tap, files) = tap::make(socket, queues)?;
            self.note(|namespace| Undo::Tap { namespace, interface: tap.index })?;
            return Ok((tap, files));
        };
        if take_over {
            redirect::take(socket, *index)?;
        }
        let name = link::name(Lasting::Macvtap, self.cookie, number);
        // Both begin in there; a redirection that is another's is left alone.
        self.note_link(&name)?;
        self.note_redirect(*index)?;
        Ok(macvtap::make(socket, name, (*index, &interface.name), self.cookie, queues)?)
    }
}

impl Network {
    /// The device that interface `index` can have.
    pub(super) fn free(&self, index: u32) -> Option<usize> {
        let own = self.ports.iter().position(|port| port.on == Some(index));
        own.or_else(|| self.ports.iter().position(|port| port.interface.is_none() && port.on.is_none()))
    }

    /// Joins an interface, which has been taken from others, with a free device, whose tap is made for it or for any.
    pub(super) fn join(&mut self, free: usize, index: u32, interface: &Interface) -> Result<Join, HostError> {
        let Network { dir, namespace, cookie, socket, model, warnings, user, .. } = self;
        let owner = Owner { dir, namespace, cookie };
        let Port { tap, on, .. } = &self.ports[free];
        let of = (index, interface.name.as_str());
        if on.is_some() {
            tap.bring_up_with(socket, interface.mtu)?;
            return Ok(Join::Macvtap);
        }
        tap.bring_up(socket, interface.mtu)?;
        owner.note_redirect(index)?;
        if *model == NetworkModel::Bridge {
            let name = link::name(Lasting::Bridge, cookie, free);
            owner.note_link(&name)?;
            let made = Bridge::join(socket, (name.clone(), cookie), tap, of, (interface.mac, interface.mtu));
            if made.is_err() {
                // Another attempt begins anew; what becomes of this one is said by its own error.
                let _ = link::remove(socket, &name);
            }
            return Ok(Join::Bridge(made?));
        }
        if *model == NetworkModel::Macvtap {
            warnings.push(format!(
                "network interface {:?} has come after the machine was started, so it is redirected by tc: network.model = \"macvtap\" is for those that are there before",
                interface.name
            ));
        }
        redirect::redirect(socket, &tap.name, tap.index, index, cookie, user.is_some())?;
        redirect::redirect(socket, &interface.name, index, tap.index, cookie, false)?;
        Ok(Join::Redirects)
    }

    /// Interface of port `port` is still there, and maybe another.
    pub(super) fn follow(&mut self, port: usize, interface: &Interface) -> Result<(), NetworkError> {
        let Port { tap, join, .. } = &mut self.ports[port];
        match join {
            Some(Join::Bridge(bridge)) => bridge.follow(&mut self.socket, tap, interface.mac, interface.mtu),
            Some(Join::Redirects | Join::Macvtap) | None => Ok(()),
        }
    }

    /// Lets name servers' answers that come in at a port's interface through to the namespace, where its model can.
    pub(super) fn let_answers_in_at(&mut self, port: usize) -> Result<(), NetworkError> {
        let Port { tap, join, interface: Some(interface), .. } = &self.ports[port] else { return Ok(()) };
        let model = match join {
            Some(Join::Bridge(_)) => "bridge",
            Some(Join::Macvtap) => "macvtap",
            Some(Join::Redirects) | None => {
                return redirect::let_answers_in(&mut self.socket, *interface, tap.index, &self.cookie);
            }
        };
        let warning = format!(
            "network.model = {model:?} lets no answers through to the engine's name server, which knows containers but no names outside: network.model = \"tc\" does, and so does another name server (docker run --dns)"
        );
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
        Ok(())
    }
}

impl Keeper {
    /// `cor why` shows what is other than was asked for.
    pub(super) fn warn_of_models(&mut self) {
        let warnings = self.network.as_mut().map(|network| std::mem::take(&mut network.warnings));
        for warning in warnings.unwrap_or_default() {
            self.warn_of_network(&warning);
        }
    }
}
