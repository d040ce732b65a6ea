//! uTP: bulk of one flow and of several, both roles on one core.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flock_bench::criteria::Pair;
use flock_bench::engines;
use flock_bench::job::{BULK_WRITE, Job};
use flock_transport::Transport;
use std::time::Duration;

fn bulk(c: &mut Criterion) {
    for flows in [1, 64] {
        let mut group = c.benchmark_group(format!("utp-bulk/{flows}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1))
            .throughput(Throughput::Bytes(BULK_WRITE as u64));
        for engine in engines::of(Transport::Utp).filter(|engine| (engine.plays)(Job::Bulk)) {
            let pair = Pair::start(engine, Job::Bulk, flows).expect("the server starts");
            group.bench_function(BenchmarkId::from_parameter(engine.name), |b| {
                b.iter_custom(|units| pair.time(units).expect("no connection fails"));
            });
            pair.stop().expect("the server ends");
        }
        group.finish();
    }
}

criterion_group!(benches, bulk);
criterion_main!(benches);
