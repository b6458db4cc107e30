//! The floor: a handler that responds with 200 and does nothing else.

use lambda_http::{Body, Error, Request, Response, run, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(respond)).await
}

async fn respond(_: Request) -> Result<Response<Body>, Error> {
    Ok(Response::new(Body::Empty))
}
