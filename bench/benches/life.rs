//! Connect, 33 bytes each way, close; 256 at a time, both roles on one core.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flock_bench::criteria::Pair;
use flock_bench::engines;
use flock_bench::job::{Close, Job};
use flock_transport::Transport;
use std::time::Duration;

fn life(c: &mut Criterion) {
    for (name, close) in [("fin", Close::Fin), ("rst", Close::Rst)] {
        let mut group = c.benchmark_group(format!("life/{name}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1))
            .throughput(Throughput::Elements(1));
        for engine in engines::of(Transport::Tcp) {
            let pair = Pair::start(engine, Job::Life(close), 256).expect("the server starts");
            group.bench_function(BenchmarkId::from_parameter(engine.name), |b| {
                b.iter_custom(|units| pair.time(units).expect("no connection fails"));
            });
            pair.stop().expect("the server ends");
        }
        group.finish();
    }
}

criterion_group!(benches, life);
criterion_main!(benches);
