//! Unary Predict calls as a tonic program makes them: closed loop, one channel, another row in every call.
//!
//! `unary_tonic HOST:PORT --request FILE [--seconds S] [--warmup-s W] [--in-flight K]` prints one JSON object.
//! FILE holds a PredictRequest of one packed row as on the wire; its values are the centre of what is sent.
//! Every answer is checked: one finite probability.

use std::{collections::HashMap, env, error::Error, fs, time::Duration, time::Instant};

use echo_rust::volcast::v1::{
    inference_service_client::InferenceServiceClient, predict_request::Rows, PredictRequest, PredictResponse,
};
use prost::Message;
use tokio::task::JoinSet;
use tonic::transport::Channel;

type Fault = Box<dyn Error + Send + Sync>;

struct Options {
    request: PredictRequest,
    seconds: f64,
    warmup_s: f64,
    in_flight: usize,
}

/// The window in which calls are counted.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

fn parse(arguments: &[String]) -> Result<Options, Fault> {
    let mut given: HashMap<&str, &str> = HashMap::new();
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if ["--request", "--seconds", "--warmup-s", "--in-flight"].contains(&name.as_str()) => {
                given.insert(name, value)
            }
            _ => return Err(format!("unknown option or no value: {}", pair[0]).into()),
        };
    }
    let value = |name: &str, default: &'static str| given.get(name).copied().unwrap_or(default).to_owned();
    let framed = fs::read(given.get("--request").ok_or("--request FILE is needed")?)?;
    let message = framed.get(5..).ok_or("--request: the file holds no framed message")?;
    Ok(Options {
        request: PredictRequest::decode(message)?,
        seconds: value("--seconds", "2").parse()?,
        warmup_s: value("--warmup-s", "0.3").parse()?,
        in_flight: value("--in-flight", "32").parse()?,
    })
}

/// The request with values that no other call has.
fn varied(centre: &PredictRequest, caller: usize, call: u64) -> Result<PredictRequest, Fault> {
    let mut request = centre.clone();
    let Some(Rows::Packed(packed)) = request.rows.as_mut() else {
        return Err("--request: expected one packed row".into());
    };
    let mut state = (caller as u64 + 1) << 40 | call;
    for value in packed.values.chunks_exact_mut(8) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let change = 1.0 + 0.1 * ((state >> 33) as f64 / f64::from(1u32 << 31) - 0.5);
        let scaled = f64::from_le_bytes(value.try_into()?) * change;
        value.copy_from_slice(&scaled.to_le_bytes());
    }
    Ok(request)
}

fn check(response: &PredictResponse) -> Result<(), Fault> {
    match response.probabilities.as_slice() {
        [probability] if (0.0..=1.0).contains(probability) => Ok(()),
        _ => Err(format!("not the answer: {response:?}").into()),
    }
}

/// One call after another; gives how long each took that ended in the window.
async fn call(
    mut client: InferenceServiceClient<Channel>,
    centre: PredictRequest,
    caller: usize,
    window: Window,
) -> Result<Vec<f64>, Fault> {
    let mut took_us = Vec::with_capacity(1 << 16);
    for number in 0.. {
        let request = varied(&centre, caller, number)?;
        let sent = Instant::now();
        check(client.predict(request).await?.get_ref())?;
        let now = Instant::now();
        if now >= window.end {
            break;
        }
        if now >= window.begin {
            took_us.push((now - sent).as_secs_f64() * 1e6);
        }
    }
    Ok(took_us)
}

async fn measure(address: &str, options: &Options) -> Result<Vec<f64>, Fault> {
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let begin = Instant::now() + Duration::from_secs_f64(options.warmup_s);
    let window = Window { begin, end: begin + Duration::from_secs_f64(options.seconds) };
    let mut callers = JoinSet::new();
    for caller in 0..options.in_flight {
        let client = InferenceServiceClient::new(channel.clone());
        callers.spawn(call(client, options.request.clone(), caller, window));
    }
    let mut took_us = Vec::new();
    while let Some(ended) = callers.join_next().await {
        took_us.extend(ended??);
    }
    if took_us.is_empty() {
        return Err("no call ended while calls were measured".into());
    }
    took_us.sort_by(f64::total_cmp);
    Ok(took_us)
}

fn main() {
    if let Err(error) = run() {
        eprintln!("unary_tonic: {error}");
        std::process::exit(1);
    }
}

#[tokio::main]
async fn run() -> Result<(), Fault> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (address, rest) = arguments.split_first().ok_or("expected HOST:PORT, then options with a value each")?;
    let options = parse(rest)?;
    let took_us = measure(address, &options).await?;
    let at = |share: f64| took_us[(share * (took_us.len() - 1) as f64) as usize];
    println!(
        "{{\"calls\": {}, \"calls_per_s\": {:.1}, \"p50_us\": {:.1}, \"p99_us\": {:.1}}}",
        took_us.len(),
        took_us.len() as f64 / options.seconds,
        at(0.5),
        at(0.99),
    );
    Ok(())
}
