//! Round trips on 64 connections, both roles on one core.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flock_bench::criteria::Pair;
use flock_bench::engines;
use flock_bench::job::Job;
use flock_transport::Transport;
use std::time::Duration;

fn echo(c: &mut Criterion) {
    for len in [64_usize, 16 * 1024] {
        let mut group = c.benchmark_group(format!("echo/{len}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1))
            .throughput(Throughput::Bytes(2 * len as u64));
        for engine in engines::of(Transport::Tcp) {
            let pair = Pair::start(engine, Job::Echo(len), 64).expect("the server starts");
            group.bench_function(BenchmarkId::from_parameter(engine.name), |b| {
                b.iter_custom(|units| pair.time(units).expect("no connection fails"));
            });
            pair.stop().expect("the server ends");
        }
        group.finish();
    }
}

criterion_group!(benches, echo);
criterion_main!(benches);
