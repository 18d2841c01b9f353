//! The contract without a model, by tonic on one thread: the nearest thing to the limit of the wire.
//!
//! `echo_rust PORT` (0: any) prints the port it listens on, then answers until it is killed.

use std::{env, error::Error, io::Write};

use tokio_stream::{wrappers::TcpListenerStream, Stream, StreamExt};
use tonic::{transport::Server, Request, Response, Status, Streaming};

use echo_rust::volcast::v1::{
    inference_service_server::{InferenceService, InferenceServiceServer},
    predict_request::Rows,
    stream_predict_response::Result as Outcome,
    HealthRequest, HealthResponse, PredictRequest, PredictResponse, StreamPredictRequest, StreamPredictResponse,
};

const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

struct Echo;

fn answer(request: PredictRequest) -> PredictResponse {
    let rows = match request.rows {
        Some(Rows::Packed(packed)) => packed.row_count as usize,
        Some(Rows::Named(named)) => named.rows.len(),
        None => 0,
    };
    PredictResponse {
        model_name: "echo".into(),
        model_version: "1".into(),
        threshold: 0.5,
        probabilities: vec![0.5; rows],
        ..Default::default()
    }
}

fn answer_frame(frame: Result<StreamPredictRequest, Status>) -> Result<StreamPredictResponse, Status> {
    let frame = frame?;
    Ok(StreamPredictResponse {
        frame_id: frame.frame_id,
        result: Some(Outcome::Response(answer(frame.request.unwrap_or_default()))),
    })
}

type Answers = std::pin::Pin<Box<dyn Stream<Item = Result<StreamPredictResponse, Status>> + Send>>;

#[tonic::async_trait]
impl InferenceService for Echo {
    type StreamPredictStream = Answers;

    async fn predict(&self, request: Request<PredictRequest>) -> Result<Response<PredictResponse>, Status> {
        Ok(Response::new(answer(request.into_inner())))
    }

    async fn stream_predict(
        &self,
        frames: Request<Streaming<StreamPredictRequest>>,
    ) -> Result<Response<Answers>, Status> {
        Ok(Response::new(Box::pin(frames.into_inner().map(answer_frame))))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(HealthResponse { ready: true, front: "tonic".into(), ..Default::default() }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = env::args().nth(1).ok_or("usage: echo_rust PORT")?.parse()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    // Nagle's delay would be measured instead of the server: the listener's sockets have it off.
    let connections = TcpListenerStream::new(listener).map(|accepted| {
        accepted.and_then(|socket| socket.set_nodelay(true).map(|()| socket))
    });
    // h2 ends a connection that has more framing than a share of this window in small messages waiting
    // ("too_many_data_frames"); at its default a stream of one-row messages without a bound gets there.
    Server::builder()
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(InferenceServiceServer::new(Echo))
        .serve_with_incoming(connections)
        .await?;
    Ok(())
}
