"""The receiver as a Python engineer who knows Powertools would write it.

Idempotency is Powertools' own: a record in a table of its own, IN_PROGRESS before the work, COMPLETED with the answer
after it. The event itself is an item in the events' table.
"""

import hashlib
import hmac
import json
import os
from datetime import datetime, timezone

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities import parameters
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.typing import LambdaContext

KEYS_SECRET = os.environ.get("UNITH_KEYS_SECRET")
FIXED_KEY = os.environ.get("UNITH_SHARED_KEY")

logger = Logger(service="receive")
# One client for both tables, and so one connection.
dynamodb = boto3.client("dynamodb")
TABLE_NAME = os.environ["TABLE_NAME"]


def mark_as_duplicate(response, _record):
    response["status"] = "duplicate"
    return response


persistence = DynamoDBPersistenceLayer(table_name=os.environ["IDEMPOTENCY_TABLE_NAME"], boto3_client=dynamodb)
idempotency = IdempotencyConfig(
    event_key_jmespath="[head_id, session_id, event_type, timestamp]",
    raise_on_no_idempotency_key=True,
    response_hook=mark_as_duplicate,
)


def shared_keys() -> list[str]:
    if FIXED_KEY:
        return [FIXED_KEY]
    ring = parameters.get_secret(KEYS_SECRET, transform="json", max_age=300)
    return [entry["key"] for entry in ring["keys"]]


def is_signed(body: bytes, signature: str) -> bool:
    macs = [hmac.new(key.encode(), body, hashlib.sha256).hexdigest() for key in shared_keys()]
    return any([hmac.compare_digest(mac, signature) for mac in macs])


@idempotent_function(data_keyword_argument="event", persistence_store=persistence, config=idempotency)
def store(event: dict, body: str) -> dict:
    item = {
        "pk": f"SESSION#{event['head_id']}#{event['session_id']}",
        "sk": f"EVENT#{event['timestamp']}#{event['event_type']}",
        "head_id": event["head_id"],
        "session_id": event["session_id"],
        "public_head_id": event["public_head_id"],
        "public_org_id": event["public_org_id"],
        "event_type": event["event_type"],
        "occurred_at": event["timestamp"],
        "received_at": datetime.now(timezone.utc).isoformat(),
        "body": body,
        "body_sha256": hashlib.sha256(body.encode()).hexdigest(),
    }
    dynamodb.put_item(TableName=TABLE_NAME, Item={name: {"S": value} for name, value in item.items()})
    return {"status": "stored"}


def answer(status: int, body: dict) -> dict:
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(body)}


@logger.inject_lambda_context
def handler(event: dict, context: LambdaContext) -> dict:
    request = APIGatewayProxyEventV2(event)
    body = request.decoded_body
    if not is_signed(body.encode(), request.headers.get("x-signature-256", "")):
        logger.warning("rejected: the signature does not match")
        return answer(401, {"message": "Unauthorized"})
    try:
        delivered = json.loads(body)
        idempotency.register_lambda_context(context)
        result = store(event=delivered, body=body)
    except (ValueError, KeyError) as error:
        logger.warning("quarantined: no event that can be read", exc_info=error)
        return answer(400, {"message": "Bad Request"})
    logger.info(
        "delivery",
        outcome=result["status"],
        head_id=delivered["head_id"],
        session_id=delivered["session_id"],
        event_type=delivered["event_type"],
    )
    return answer(200, result)
