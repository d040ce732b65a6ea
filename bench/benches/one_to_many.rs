//! One shared blob to 64 peers, both roles on one core.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flock_bench::criteria::Pair;
use flock_bench::engines;
use flock_bench::job::Job;
use flock_transport::Transport;
use std::time::Duration;

fn one_to_many(c: &mut Criterion) {
    for len in [256 * 1024_usize] {
        let mut group = c.benchmark_group(format!("one_to_many/{}-KiB", len / 1024));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1))
            .throughput(Throughput::Bytes(len as u64));
        for engine in engines::of(Transport::Tcp) {
            let pair = Pair::start(engine, Job::Blob(len), 64).expect("the server starts");
            group.bench_function(BenchmarkId::from_parameter(engine.name), |b| {
                b.iter_custom(|units| pair.time(units).expect("no connection fails"));
            });
            pair.stop().expect("the server ends");
        }
        group.finish();
    }
}

criterion_group!(benches, one_to_many);
criterion_main!(benches);
