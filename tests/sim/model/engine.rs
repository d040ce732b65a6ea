//! The engine under test: its shards as actors, and who is connected as its handlers see it.

use super::plan::{ENGINE, Options, PORT};
use super::reference::Model;
use flock_engine::io::DriverConfig;
use flock_engine::io::sim::{SimDriver, SimWorld};
use flock_engine::{
    Approach, CloseReason, ConnCx, ConnId, ConnectionInfo, Events, Flock, Handler, IdChoice,
    ListenOptions, PeerId, Shard, ShardCx, Step,
};
use flock_tests::world::Actor;
use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// The peers that the handlers have, and what they noticed.
#[derive(Default)]
pub(crate) struct Users {
    pub(crate) peers: BTreeSet<PeerId>,
    pub(crate) wrong: Option<String>,
}

/// Keeps [`Users`] up to date.
struct Keeper(Rc<RefCell<Users>>);

impl Handler for Keeper {
    type Conn = PeerId;
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, info: &ConnectionInfo) -> PeerId {
        let mut users = self.0.borrow_mut();
        let peer = info.peer_id.clone().expect("admitted peers have ids");
        if !users.peers.insert(peer.clone()) {
            users.wrong = Some(format!("the handlers have {peer:?} twice"));
        }
        peer
    }

    fn on_data(&mut self, _: &mut ConnCx<'_>, peer: &mut PeerId, _: &[u8]) {
        let mut users = self.0.borrow_mut();
        users.wrong = Some(format!("{peer:?} said more than its id"));
    }

    fn on_closed(&mut self, _: &mut ShardCx<'_>, _: ConnId, peer: PeerId, _: CloseReason) {
        let mut users = self.0.borrow_mut();
        if !users.peers.remove(&peer) {
            users.wrong = Some(format!(
                "the handlers lost {peer:?}, whom they did not have"
            ));
        }
    }
}

/// What the shards share with the case.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) model: Rc<RefCell<Model>>,
    pub(crate) users: Rc<RefCell<Users>>,
    events: Rc<RefCell<Events>>,
}

struct EngineShard {
    shard: Shard<SimDriver, Keeper>,
    watch: Watch,
}

impl Actor for EngineShard {
    fn driver(&self) -> usize {
        self.shard.driver().id()
    }

    fn step(&mut self) -> bool {
        use flock_engine::io::Driver;
        let step = self.shard.step();
        let now = self.shard.driver().now();
        let mut events = self.watch.events.borrow_mut();
        let mut model = self.watch.model.borrow_mut();
        while let Some(event) = events.try_next() {
            model.event(now, &event);
        }
        step == Step::Running
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An engine at its address, and its shards as actors.
pub(crate) fn assemble(
    world: &SimWorld,
    options: &Options,
    seed: u64,
    model: Model,
) -> (Flock<()>, Watch, Vec<impl Actor + use<>>) {
    let node = world.node(&[ENGINE]);
    let config = DriverConfig {
        sockets: 512,
        buffers: 16,
        buffer_size: 256,
        batch: 32,
        ..DriverConfig::default()
    };
    let (walled_ip, walled_id) = (options.walled_ip, options.walled_id.clone());
    let allows = move |approach: &Approach<'_>| match approach {
        Approach::Inbound { addr, .. } | Approach::Outbound { addr } => {
            Some(addr.ip()) != walled_ip
        }
        Approach::Identified(info) => walled_id.is_none() || info.peer_id != walled_id,
        _ => true,
    };
    let nets = |ips: &[IpAddr]| ips.iter().map(|ip| (*ip).into()).collect();
    let builder = Flock::builder()
        .seed(seed)
        .id(IdChoice::Fixed(options.id.clone()))
        .utp(false)
        .connections(128)
        .max_connections(options.max_connections)
        .max_inbound(options.max_inbound)
        .max_outbound(options.max_outbound)
        .half_open(options.half_open)
        .dials(options.dials)
        .candidates(options.candidates)
        .whitelist(nets(&options.whitelist))
        .firewall(allows)
        .denylist(nets(&options.denylist))
        .retry_tail(options.retry_tail)
        .keep_existing(options.keep_existing);
    let drivers = (0..options.shards)
        .map(|_| world.driver(node, config))
        .collect();
    let users = Rc::new(RefCell::new(Users::default()));
    let (flock, shards) = builder
        .assemble(drivers, |_| Keeper(users.clone()))
        .expect("the options make sense");
    let events = flock.events().expect("nobody else listens");
    let watch = Watch {
        model: Rc::new(RefCell::new(model)),
        users,
        events: Rc::new(RefCell::new(events)),
    };
    let mut actors = Vec::new();
    for (index, mut shard) in shards.into_iter().enumerate() {
        let listen = ListenOptions {
            shared: true,
            exclusive: index == 0,
            ..ListenOptions::default()
        };
        let at = SocketAddr::new(ENGINE, PORT);
        shard.listen(at, &listen).expect("the port is free");
        actors.push(EngineShard {
            shard,
            watch: watch.clone(),
        });
    }
    (flock, watch, actors)
}
