//! uTP: lives, and bulk of one flow and of several, both roles on one core.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flock_bench::criteria::Pair;
use flock_bench::engine::Engine;
use flock_bench::engines::{self, utp_native};
use flock_bench::job::{BULK_WRITE, Close, Job};
use flock_transport::Transport;
use std::time::Duration;

/// Those that can do `job` in one process for as long as criterion likes.
fn able(job: Job) -> impl Iterator<Item = Engine> {
    engines::of(Transport::Utp)
        .filter(move |engine| (engine.plays)(job) && engine.name != utp_native::ENGINE.name)
}

fn measure(c: &mut Criterion, name: String, job: Job, in_flight: usize, unit: Throughput) {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .throughput(unit);
    for engine in able(job) {
        let pair = Pair::start(engine, job, in_flight).expect("the server starts");
        group.bench_function(BenchmarkId::from_parameter(engine.name), |b| {
            b.iter_custom(|units| pair.time(units).expect("no connection fails"));
        });
        pair.stop().expect("the server ends");
    }
    group.finish();
}

fn life(c: &mut Criterion) {
    for (name, close) in [("fin", Close::Fin), ("rst", Close::Rst)] {
        let name = format!("utp-life/{name}");
        measure(c, name, Job::Life(close), 64, Throughput::Elements(1));
    }
}

fn bulk(c: &mut Criterion) {
    for flows in [1, 64] {
        let unit = Throughput::Bytes(BULK_WRITE as u64);
        measure(c, format!("utp-bulk/{flows}"), Job::Bulk, flows, unit);
    }
}

criterion_group!(benches, life, bulk);
criterion_main!(benches);
