"""Starts MiniStack with the behaviour of AWS that the deploy test needs and MiniStack lacks.

Each section closes a gap of MiniStack 1.4.21: it names the gap and the behaviour of AWS. The template itself is written for
AWS alone.
"""

import copy
import datetime
import fnmatch
import http.server
import json
import re
import subprocess
import sys
import threading
import time
import types

from ministack.core import responses
from ministack.services import apigateway, dynamodb, eventbridge, iam, lambda_svc, secretsmanager, sqs
from ministack.services.cloudformation import _stacks, changesets, custom_resource, engine, provisioners, stacks
from ministack.services.cloudformation import handlers as stack_handlers

# --- Parameters -------------------------------------------------------------------------------------------------------
# Patterns of parameters and the rules of a template are not checked. A reference to a CommaDelimitedList resolves to its
# text, so `!Join` joins the characters of the text. On AWS it is a list.

resolve_parameters = engine._resolve_parameters
resolve_refs = engine._resolve_refs


def resolve_and_check_parameters(template, *rest):
    resolved = resolve_parameters(template, *rest)
    for name, definition in template.get("Parameters", {}).items():
        parameter = resolved[name]
        parameter["IsList"] = definition.get("Type") == "CommaDelimitedList"
        items = parameter["Value"].split(",") if parameter["IsList"] else [parameter["Value"]]
        if not all(re.fullmatch(definition.get("AllowedPattern", ".*"), item.strip(), re.DOTALL) for item in items):
            raise ValueError(f"Parameter {name} failed to satisfy constraint: {definition.get('ConstraintDescription')}")
    for rule in template.get("Rules", {}).values():
        if holds(rule.get("RuleCondition", True), resolved):
            for assertion in rule["Assertions"]:
                if not holds(assertion["Assert"], resolved):
                    raise ValueError(assertion["AssertDescription"])
    return resolved


def holds(condition, parameters):
    return engine._evaluate_conditions({"Conditions": {"it": condition}}, parameters)["it"]


def resolve_lists(value, resources, params, *rest):
    if isinstance(value, dict) and params.get(value.get("Ref"), {}).get("IsList"):
        return [item.strip() for item in params[value["Ref"]]["Value"].split(",")]
    return resolve_refs(value, resources, params, *rest)


# --- One event per invocation -----------------------------------------------------------------------------------------
# The Runtime API hands an invocation out again if the function asks for the next one, so the function may get an event
# twice before its first response is read. Here the function waits until MiniStack ends it.

RequestHandler = http.server.BaseHTTPRequestHandler


class ServesOnce(RequestHandler):
    def __init_subclass__(cls):
        serve_next = cls.do_GET
        served = threading.Event()

        def do_GET(self):
            if "/invocation/next" not in self.path or not served.is_set():
                served.set()
                serve_next(self)
            else:
                self.rfile.read(1)  # returns when the function is gone

        cls.do_GET = do_GET


# --- Logs of functions ------------------------------------------------------------------------------------------------
# What a function writes to its standard output is not in its log group.

execute_bootstrap = lambda_svc._execute_function_provided
printed = threading.local()


class KeepsOutput(subprocess.Popen):
    def communicate(self, *arguments, **rest):
        output = super().communicate(*arguments, **rest)
        printed.text = (output[0] or b"").decode(errors="replace")
        return output


def execute_bootstrap_with_log(function, event):
    printed.text = ""
    return {**execute_bootstrap(function, event), "log": printed.text}


# --- Resource types ---------------------------------------------------------------------------------------------------
# Alarms on metric math and metric filters are rejected. The test does not evaluate them, so it is enough that they
# exist.

create_alarm = provisioners._RESOURCE_HANDLERS["AWS::CloudWatch::Alarm"]["create"]


def create_alarm_on_math(logical_id, props, stack_name):
    metrics = props.get("Metrics")
    if metrics:
        stat = next(metric["MetricStat"] for metric in metrics if "MetricStat" in metric)
        props = {**props, **stat["Metric"], "Period": stat["Period"], "Statistic": stat["Stat"], "Metrics": None}
    return create_alarm(logical_id, props, stack_name)


def create_metric_filter(logical_id, props, stack_name):
    return f"{stack_name}-{logical_id}", {}


# --- Permissions of roles ---------------------------------------------------------------------------------------------
# IAM allows everything, and the policy of a role is not a resource. Here a function's session token is its role, and
# IAM evaluates the statements that our roles have: actions, whole ARNs and partition keys. A Deny in a role's policy or
# in a queue's comes before any Allow. A policy with a new name is a new policy. The old one is deleted in the clean-up,
# after everything else.

GUARDED = {
    "dynamodb": {"PutItem", "GetItem", "Query", "DeleteItem", "Scan", "UpdateItem", "BatchWriteItem", "TransactWriteItems"},
    "secretsmanager": {"GetSecretValue", "PutSecretValue"},
    "sqs": {"SendMessage", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes"},
    "events": {"PutEvents", "DescribeEventBus"},
}
# SQS has no permissions of their own for these.
SQS_BATCHES = {f"{name}Batch": name for name in ("SendMessage", "DeleteMessage", "ChangeMessageVisibility")}
# The partition key in the key condition of a query, e.g. `pk = :pk` or `#pk = :day AND …`.
KEY_CONDITION = re.compile(r"[(\s]*\S+\s*=\s*(:\w+)")
runtime_variables = lambda_svc._runtime_env_vars
replaced_policies = []


def variables_with_role(config):
    return {**runtime_variables(config), "AWS_SESSION_TOKEN": config["Role"].rsplit("/", 1)[-1]}


def resources_of(service, data):
    if service == "dynamodb":
        name = data.get("TableName", "").rsplit("/", 1)[-1]
        table = dynamodb._tables[name]["TableArn"] if name in dynamodb._tables else name
        return [f"{table}/index/{data['IndexName']}" if "IndexName" in data else table]
    if service == "sqs":
        return [queue_attributes(data).get("QueueArn", data["QueueUrl"])]
    if service == "events":
        names = [entry.get("EventBusName") for entry in data.get("Entries", [])] or [data.get("Name")]
        return [bus_arn(name or "default") for name in names]
    _, secret = secretsmanager._resolve(data["SecretId"])
    return [secret["ARN"] if secret else data["SecretId"]]


def bus_arn(name_or_arn):
    if name_or_arn.startswith("arn:"):
        return name_or_arn
    return f"arn:aws:events:{responses.get_region()}:{responses.get_account_id()}:event-bus/{name_or_arn}"


def queue_attributes(data):
    name = data["QueueUrl"].rsplit("/", 1)[-1]
    return sqs._queues.get(sqs._queue_name_to_url.get(name), {}).get("attributes", {})


def partition_key_of(data):
    if "KeyConditionExpression" in data:
        found = KEY_CONDITION.match(data["KeyConditionExpression"])
        return data["ExpressionAttributeValues"][found[1]]["S"] if found else ""
    return data.get("Item", data.get("Key", {})).get("pk", {}).get("S", "")


def many(value):
    return value if isinstance(value, list) else [value]


def applies(statement, action, resource, partition_key):
    keys = statement.get("Condition", {}).get("ForAllValues:StringLike", {}).get("dynamodb:LeadingKeys")
    return (
        action in many(statement["Action"])
        and (resource in many(statement["Resource"]) or statement["Resource"] == "*")
        and (keys is None or any(fnmatch.fnmatchcase(partition_key, pattern) for pattern in many(keys)))
    )


def is_allowed(role, action, resource, partition_key):
    documents = iam._roles.get(role, {}).get("InlinePolicies", {}).values()
    statements = [statement for document in documents for statement in many(json.loads(document)["Statement"])]
    effects = {
        statement["Effect"] for statement in statements if applies(statement, action, resource, partition_key)
    }
    return effects == {"Allow"}


def queue_denies(role, action, data):
    document = json.loads(queue_attributes(data).get("Policy", '{"Statement": []}'))
    arn = iam._roles.get(role, {}).get("Arn")
    return any(
        statement["Effect"] == "Deny"
        and action in many(statement["Action"])
        and arn not in many(statement["Condition"]["ArnNotEquals"]["aws:PrincipalArn"])
        for statement in document["Statement"]
    )


def guard(service, module):
    serve = module.handle_request

    async def handle_request(method, path, headers, body, query_params):
        role = headers.get("x-amz-security-token")
        called = headers.get("x-amz-target", "").rsplit(".", 1)[-1]
        called = SQS_BATCHES.get(called, called)
        if role and called in GUARDED[service]:
            action, data = f"{service}:{called}", json.loads(body)
            is_denied = service == "sqs" and queue_denies(role, action, data)
            for resource in resources_of(service, data):
                if is_denied or not is_allowed(role, action, resource, partition_key_of(data)):
                    message = f"{role} may not {action} on {resource}"
                    return responses.error_response_json("AccessDeniedException", message)
        return await serve(method, path, headers, body, query_params)

    module.handle_request = handle_request


def put_role_policy(props):
    policies = iam._roles[props["RoleName"]]["InlinePolicies"]
    policies[props["PolicyName"]] = json.dumps(props["PolicyDocument"], default=str)
    return f"{props['PolicyName']}|{props['RoleName']}", {}


def create_role_policy(logical_id, props, stack_name):
    return put_role_policy(props)


def update_role_policy(physical_id, old_props, new_props, stack_name):
    new = put_role_policy(new_props)
    if new[0] != physical_id:
        replaced_policies.append(physical_id)
    return new


def delete_role_policy(physical_id, props):
    name, role = physical_id.split("|")
    iam._roles.get(role, {}).get("InlinePolicies", {}).pop(name, None)


def clean_up(stack_name):
    current = {resource["PhysicalResourceId"] for resource in _stacks[stack_name]["_resources"].values()}
    while replaced_policies:
        replaced = replaced_policies.pop()
        if replaced not in current:
            delete_role_policy(replaced, {})


# --- New roles --------------------------------------------------------------------------------------------------------
# On AWS, Lambda can assume a new role only after some seconds, and CreateFunction fails until then. CloudFormation
# retries.

ROLE_DELAY_S = 5
create_lambda_function = lambda_svc._create_function


def create_function_with_known_role(data):
    role = iam._roles.get(data["Role"].rsplit("/", 1)[-1], {})
    created = datetime.datetime.fromisoformat(role["CreateDate"].replace("Z", "+00:00")) if role else None
    if created is None or datetime.datetime.now(datetime.UTC) - created < datetime.timedelta(seconds=ROLE_DELAY_S):
        message = "The role defined for the function cannot be assumed by Lambda."
        return responses.error_response_json("InvalidParameterValueException", message, 400)
    return create_lambda_function(data)


# --- Versions of a secret ---------------------------------------------------------------------------------------------
# Secrets Manager keeps at most 100 versions, and deletes only versions without a label that are older than 24 h.
# MiniStack deletes every version that loses its last label.

SECRET_VERSIONS = 100
DAY_S = 24 * 3600
put_secret_value = secretsmanager._put_secret_value


def put_secret_value_within_quota(data):
    _, secret = secretsmanager._resolve(data["SecretId"])
    versions = secret["Versions"] if secret else {}
    deletable = [
        version
        for version, value in versions.items()
        if not value["Stages"] and time.time() - value["CreatedDate"] > DAY_S
    ]
    for version in sorted(deletable, key=lambda version: versions[version]["CreatedDate"]):
        if len(versions) < SECRET_VERSIONS:
            break
        del versions[version]
    if len(versions) >= SECRET_VERSIONS:
        message = "You have exceeded the quota of versions of a secret that were created within 24 hours."
        return responses.error_response_json("LimitExceededException", message, 400)
    before = dict(versions)
    response = put_secret_value(data)
    versions.update({version: value for version, value in before.items() if version not in versions})
    return response


# --- Secrets ----------------------------------------------------------------------------------------------------------
# A reference to a secret is its name instead of its ARN. An update replaces the secret. A secret without a value has an
# empty one.

create_secret = provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::Secret"]["create"]


def create_or_update_secret(logical_id, props, stack_name):
    before = dict(secretsmanager._secrets.items())
    name, _ = create_secret(logical_id, props, stack_name)
    secret = secretsmanager._secrets[name]
    if name in before:
        secret["ARN"] = before[name]["ARN"]
    if "SecretString" not in props:
        secret["Versions"] = before[name]["Versions"] if name in before else {}
    return secret["ARN"], {"Id": secret["ARN"]}


def delete_secret(physical_id, props):
    name, _ = secretsmanager._resolve(physical_id)
    secretsmanager._secrets.pop(name, None)


# --- Tables -----------------------------------------------------------------------------------------------------------
# An update creates the table again, without its items and its stream. The label of a stream has a time zone.

create_table = provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]["create"]


def create_or_update_table(logical_id, props, stack_name):
    before = dict(dynamodb._tables.items())
    name, attributes = create_table(logical_id, props, stack_name)
    table = dynamodb._tables[name]
    for belonging in ("TableId", "CreationDateTime", "items", "ItemCount", "TableSizeBytes"):
        if name in before:
            table[belonging] = before[name][belonging]
    if table["StreamSpecification"]:
        stream = before.get(name, {}).get("LatestStreamArn") or table["LatestStreamArn"].removesuffix("Z")
        table["LatestStreamArn"], table["LatestStreamLabel"] = stream, stream.rsplit("/", 1)[-1]
        attributes["StreamArn"] = stream
    return name, attributes


# --- Queues -----------------------------------------------------------------------------------------------------------
# An update creates the queue again, without its messages. Most attributes are ignored, those of a FIFO queue too. The
# name that CloudFormation makes for a FIFO queue ends in `.fifo`.

create_queue = provisioners._RESOURCE_HANDLERS["AWS::SQS::Queue"]["create"]
FIFO = ".fifo"
NAME_LENGTH = 80


def attribute(value):
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else str(value)


def create_or_update_queue(logical_id, props, stack_name):
    before = dict(sqs._queues.items())
    if attribute(props.get("FifoQueue")) == "true":
        made = provisioners._physical_name(stack_name, logical_id, max_len=NAME_LENGTH - len(FIFO)) + FIFO
        props = {**props, "QueueName": props.get("QueueName", made)}
    if props.get("QueueName", "").endswith(FIFO) != (attribute(props.get("FifoQueue")) == "true"):
        raise RuntimeError("The name of a FIFO queue must end with the .fifo suffix, and no other name may.")
    url, attributes = create_queue(logical_id, props, stack_name)
    given = {name: attribute(value) for name, value in props.items() if name not in ("QueueName", "Tags")}
    sqs._queues[url]["attributes"].update(given)
    if url in before:
        sqs._queues[url]["messages"] = before[url]["messages"]
        if "Policy" in before[url]["attributes"]:
            sqs._queues[url]["attributes"]["Policy"] = before[url]["attributes"]["Policy"]
    return url, attributes


# --- Event buses ------------------------------------------------------------------------------------------------------
# A bus is described by its name alone, not by its ARN. It is deleted together with its rules. CloudFormation creates it
# again in an update, and ignores its key. The time of an entry is ignored, and its detail may be anything.

describe_event_bus = eventbridge._describe_event_bus
delete_event_bus = eventbridge._delete_event_bus
put_events = eventbridge._put_events
now_of_events = eventbridge._now_ts
BUS_PROPERTIES = ("Name", "Description", "KmsKeyIdentifier")
MOST_ENTRIES = 10
entry_time = None


def describe_event_bus_by_name_or_arn(data):
    name, error = eventbridge._event_bus_name_from_ref(data.get("Name", "default"))
    return responses.error_response_json(*error, 400) if error else describe_event_bus({"Name": name})


def delete_event_bus_without_rules(data):
    if any(rule["EventBusName"] == data["Name"] for rule in eventbridge._rules.values()):
        message = "EventBus can't be deleted since it has rules."
        return responses.error_response_json("ValidationException", message, 400)
    return delete_event_bus(data)


def delete_bus(physical_id, props):
    status, _, body = delete_event_bus_without_rules({"Name": physical_id})
    if status != 200:
        raise RuntimeError(json.loads(body)["message"])


def create_bus(logical_id, props, stack_name):
    name = props["Name"]
    if name in eventbridge._event_buses:
        raise RuntimeError(f"Event bus {name} already exists.")
    eventbridge._create_event_bus({property: props[property] for property in BUS_PROPERTIES if property in props})
    return name, {"Arn": bus_arn(name), "Name": name}


def update_bus(physical_id, old_props, new_props, stack_name):
    if new_props["Name"] != physical_id:
        raise RuntimeError("a replacement of an event bus is not emulated")
    eventbridge._update_event_bus({property: new_props.get(property) for property in BUS_PROPERTIES})
    return physical_id, {"Arn": bus_arn(physical_id), "Name": physical_id}


def time_of_entry():
    return now_of_events() if entry_time is None else entry_time


def put_events_strictly(data):
    global entry_time
    if len(data["Entries"]) > MOST_ENTRIES:
        return put_events(data)
    results = []
    for entry in data["Entries"]:
        refused = refusal_of(entry)
        if refused:
            results.append(refused)
            continue
        entry_time = entry.get("Time")
        _, _, body = put_events({"Entries": [entry]})
        entry_time = None
        results += json.loads(body)["Entries"]
    failed = sum("ErrorCode" in result for result in results)
    return responses.json_response({"FailedEntryCount": failed, "Entries": results})


def refusal_of(entry):
    for name in ("Source", "DetailType", "Detail"):
        if not entry.get(name):
            return {"ErrorCode": "InvalidArgument", "ErrorMessage": f"Parameter {name} is not valid. Reason: {name} is a required argument."}
    try:
        is_object = isinstance(json.loads(entry["Detail"]), dict)
    except ValueError:
        is_object = False
    return None if is_object else {"ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed."}


# --- Mappings of streams and queues -----------------------------------------------------------------------------------
# The permissions of the function's role are not checked: on AWS, Lambda reads a source and sends failed records with them.
# A mapping of a stream ignores ReportBatchItemFailures, so records that the function did not take are lost. Here the whole
# batch is tried again, as after an invocation that failed.

create_mapping = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]["create"]
update_mapping = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]["update"]
execute_function = lambda_svc._execute_function
STREAM_ACTIONS = ("DescribeStream", "GetRecords", "GetShardIterator")
QUEUE_ACTIONS = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")


def missing_permissions(function, source):
    role = function["config"]["Role"].rsplit("/", 1)[-1]
    if ":sqs:" in source:
        needed = [(f"sqs:{action}", source) for action in QUEUE_ACTIONS]
    else:
        streams = source.rsplit("/", 1)[0] + "/*"
        needed = [(f"dynamodb:{action}", source) for action in STREAM_ACTIONS] + [("dynamodb:ListStreams", streams)]
    return [f"{action} on {resource}" for action, resource in needed if not is_allowed(role, action, resource, "")]


def check_mapping(props):
    function, *_ = provisioners._lambda_function_for_cfn_ref(props["FunctionName"])
    missing = missing_permissions(function, props["EventSourceArn"])
    failures = props.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
    role = function["config"]["Role"].rsplit("/", 1)[-1]
    if failures and not is_allowed(role, "sqs:SendMessage", failures, ""):
        missing.append(f"sqs:SendMessage on {failures}")
    if missing:
        raise RuntimeError(f"The function's execution role does not have permissions to call {', '.join(missing)}")


def create_allowed_mapping(logical_id, props, stack_name):
    check_mapping(props)
    return create_mapping(logical_id, props, stack_name)


def update_allowed_mapping(physical_id, old_props, new_props, stack_name):
    check_mapping(new_props)
    return update_mapping(physical_id, old_props, new_props, stack_name)


def execute_function_for_mapping(function, event):
    records = event.get("Records") if isinstance(event, dict) else None
    if not records or records[0].get("eventSource") != "aws:dynamodb":
        return execute_function(function, event)
    table = dynamodb._tables[records[0]["eventSourceARN"].split("/")[1]]
    missing = missing_permissions(function, table["LatestStreamArn"])
    if missing:
        return {"error": True, "body": {"errorType": "AccessDenied", "errorMessage": ", ".join(missing)}}
    result = execute_function(function, event)
    body = result.get("body")
    body = json.loads(body) if isinstance(body, str) else body
    return {**result, "error": True} if body and body.get("batchItemFailures") else result


# --- Routes of an HTTP API --------------------------------------------------------------------------------------------
# The OpenAPI body, in which SAM describes routes, is not imported. The route of a quick create is not created.

create_api_resource = provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::Api"]["create"]
create_api = apigateway._create_api


def make_route(api_id, route_key, function, payload_version="2.0"):
    integration = {"integrationType": "AWS_PROXY", "integrationUri": function, "payloadFormatVersion": payload_version}
    _, _, made = apigateway._create_integration(api_id, integration)
    target = f"integrations/{json.loads(made)['integrationId']}"
    apigateway._create_route(api_id, {"routeKey": route_key, "target": target})


def create_api_resource_with_routes(logical_id, props, stack_name):
    api_id, attributes = create_api_resource(logical_id, props, stack_name)
    for path, methods in props["Body"]["paths"].items():
        for method, operation in methods.items():
            wanted = operation["x-amazon-apigateway-integration"]
            make_route(api_id, f"{method.upper()} {path}", wanted["uri"], wanted["payloadFormatVersion"])
    return api_id, attributes


def quick_create_api(data):
    response = create_api(data)
    if data.get("target"):
        api_id = json.loads(response[2])["apiId"]
        make_route(api_id, data["routeKey"], data["target"])
        apigateway._create_stage(api_id, {"stageName": "$default", "autoDeploy": True})
    return response


# --- Updates of a function --------------------------------------------------------------------------------------------
# An update creates the function again, without its versions, aliases and policies. It also takes no time: on AWS the
# old version serves for some seconds after the policies have changed.

UPDATE_S = 1
is_custom_resource = stacks._is_custom_resource


def takes_time(resource_type):
    return resource_type == "AWS::Lambda::Function" or is_custom_resource(resource_type)


create_function = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]["create"]


def create_or_update_function(logical_id, props, stack_name):
    before = dict(lambda_svc._functions.items())
    if _stacks[stack_name]["StackStatus"].startswith("UPDATE"):
        time.sleep(UPDATE_S)
    name, attributes = create_function(logical_id, props, stack_name)
    for belonging in ("versions", "next_version", "aliases", "policy", "event_invoke_config", "event_invoke_configs"):
        if name in before:
            lambda_svc._functions[name][belonging] = before[name][belonging]
    return name, attributes


# --- Versions of a function -------------------------------------------------------------------------------------------
# Lambda does not publish a version without a change, and CloudFormation then fails. MiniStack always publishes one,
# even in a rollback, in which CloudFormation returns to the existing version.

create_version = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Version"]["create"]
made_versions = {}
OF_THE_VERSION_ALONE = {"Version", "FunctionArn", "RevisionId", "LastModified"}


def content_of(version):
    config = {name: value for name, value in version["config"].items() if name not in OF_THE_VERSION_ALONE}
    return json.dumps(config, sort_keys=True, default=str), version.get("code_zip")


def create_version_if_new(logical_id, props, stack_name):
    properties = (stack_name, logical_id, json.dumps(props, sort_keys=True))
    if _stacks[stack_name]["StackStatus"] == "UPDATE_ROLLBACK_IN_PROGRESS" and properties in made_versions:
        return made_versions[properties]
    function, *_ = provisioners._lambda_function_for_cfn_ref(props["FunctionName"])
    last = max(function["versions"], key=int, default=None)
    if last is not None and content_of(function["versions"][last]) == content_of(function):
        raise RuntimeError(
            f"A version for this Lambda function exists ( {last} ). Modify the function to create a new version."
        )
    made_versions[properties] = create_version(logical_id, props, stack_name)
    return made_versions[properties]


# --- Retained resources -----------------------------------------------------------------------------------------------
# DeletionPolicy is ignored.

delete_resource = stacks._delete_resource


def delete_unless_retained(resource_type, physical_id, props, stack_name, logical_id):
    stack = _stacks[stack_name]
    resource = engine._parse_template(stack["_template_body"])["Resources"].get(logical_id, {})
    creating = stack["StackStatus"] == "ROLLBACK_IN_PROGRESS"
    policy = resource.get("DeletionPolicy")
    if policy == "Retain" or (policy == "RetainExceptOnCreate" and not creating):
        return
    delete_resource(resource_type, physical_id, props, stack_name, logical_id)


# --- Response URLs of custom resources --------------------------------------------------------------------------------
# On AWS the URL is presigned, so a request shows when CloudFormation sent it.

response_url = custom_resource._response_url


def presigned_response_url(token):
    signed_at = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{response_url(token)}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={signed_at}&X-Amz-Expires=7200"


# --- Custom resources whose creation fails ----------------------------------------------------------------------------
# CloudFormation sends a Delete, for whatever the creation left behind, and reports a Delete that fails. MiniStack does
# neither.

create_custom_resource = provisioners._custom_resource_create
delete_custom_resource = provisioners._custom_resource_delete
deliver_response = custom_resource.deliver_response
last_response = {}


def remember_response(token, response):
    last_response.update(response)
    return deliver_response(token, response)


def create_or_delete(logical_id, props, stack_name, resource_type="AWS::CloudFormation::CustomResource"):
    try:
        return create_custom_resource(logical_id, props, stack_name, resource_type)
    except RuntimeError:
        physical_id = last_response["PhysicalResourceId"]
        delete_custom_resource(physical_id, props, stack_name, logical_id, resource_type)
        raise


# --- Rollback of a custom resource ------------------------------------------------------------------------------------
# In CloudFormation's second Update, the old properties are those of the attempt that failed.

attempted = {}
update_custom_resource = provisioners._custom_resource_update


def remember_attempt(physical_id, old_props, new_props, stack_name, **rest):
    attempted[stack_name, rest["logical_id"]] = new_props
    return update_custom_resource(physical_id, old_props, new_props, stack_name, **rest)


# --- Descriptions of stacks -------------------------------------------------------------------------------------------
# `sam delete` reads whether a stack is protected from deletion.

describe_stacks = stack_handlers._describe_stacks


def describe_stacks_with_protection(params):
    status, headers, body = describe_stacks(params)
    end = b"</StackStatus>"
    return status, headers, body.replace(end, end + b"<EnableTerminationProtection>false</EnableTerminationProtection>")


# --- Rollback of an update --------------------------------------------------------------------------------------------
# MiniStack deletes all resources that it has looked at, unchanged ones too. CloudFormation removes the new ones, and
# updates the others back to their old properties. Custom resources get an Update with these.

deploy_stack = stacks._deploy_stack_async


async def deploy_or_roll_back(name, stack_id, template, params, disable_rollback, tags, is_update=False, previous_stack=None):
    if not is_update or disable_rollback:
        await deploy_stack(name, stack_id, template, params, disable_rollback, tags, is_update, previous_stack)
        return
    before = copy.deepcopy(previous_stack)
    await deploy_stack(name, stack_id, template, params, True, tags, True, previous_stack)
    stack = _stacks[name]
    if stack["StackStatus"] != "UPDATE_FAILED":
        clean_up(name)
        return
    reason = stack["StackStatusReason"]
    stack["StackStatus"] = "UPDATE_ROLLBACK_IN_PROGRESS"
    now = {"_resources": stack["_resources"]}
    for logical_id, resource in now["_resources"].items():
        resource["Properties"] = attempted.get((name, logical_id), resource["Properties"])
    stack["_conditions"] = engine._evaluate_conditions(before["_template"], before["_resolved_params"])
    await deploy_stack(name, stack_id, before["_template"], before["_resolved_params"], True, tags, True, copy.deepcopy(now))
    clean_up(name)
    rolled_back = stack["StackStatus"] == "UPDATE_COMPLETE"
    stack["StackStatus"] = "UPDATE_ROLLBACK_COMPLETE" if rolled_back else "UPDATE_ROLLBACK_FAILED"
    stack["StackStatusReason"] = reason
    stacks._add_event(stack_id, name, name, "AWS::CloudFormation::Stack", stack["StackStatus"], reason, stack_id)


def main():
    for module in (engine, stacks, changesets):
        module._resolve_refs = resolve_lists
    for module in (engine, changesets):
        module._resolve_parameters = resolve_and_check_parameters
    http.server.BaseHTTPRequestHandler = ServesOnce
    apigateway._create_api = quick_create_api
    handlers = provisioners._RESOURCE_HANDLERS
    handlers["AWS::ApiGatewayV2::Api"]["create"] = create_api_resource_with_routes
    handlers["AWS::CloudWatch::Alarm"]["create"] = create_alarm_on_math
    handlers["AWS::Lambda::Function"]["create"] = create_or_update_function
    handlers["AWS::Lambda::Version"]["create"] = create_version_if_new
    handlers["AWS::DynamoDB::Table"]["create"] = create_or_update_table
    handlers["AWS::Events::EventBus"] = {"create": create_bus, "update": update_bus, "delete": delete_bus}
    handlers["AWS::Lambda::EventSourceMapping"].update(create=create_allowed_mapping, update=update_allowed_mapping)
    handlers["AWS::SQS::Queue"]["create"] = create_or_update_queue
    handlers["AWS::SecretsManager::Secret"] = {"create": create_or_update_secret, "delete": delete_secret}
    handlers["AWS::IAM::RolePolicy"] = {
        "create": create_role_policy,
        "update": update_role_policy,
        "delete": delete_role_policy,
    }
    handlers["AWS::Logs::MetricFilter"] = {"create": create_metric_filter, "delete": lambda physical_id, props: None}
    stacks._delete_resource = delete_unless_retained
    stacks._is_custom_resource = takes_time
    custom_resource.deliver_response = remember_response
    custom_resource._response_url = presigned_response_url
    lambda_svc._create_function = create_function_with_known_role
    secretsmanager._put_secret_value = put_secret_value_within_quota
    provisioners._custom_resource_create = create_or_delete
    provisioners._custom_resource_update = remember_attempt
    changesets._deploy_stack_async = deploy_or_roll_back
    for action, handler in stack_handlers._ACTION_HANDLERS.items():
        if handler is describe_stacks:
            stack_handlers._ACTION_HANDLERS[action] = describe_stacks_with_protection
    lambda_svc._runtime_env_vars = variables_with_role
    guard("dynamodb", dynamodb)
    lambda_svc._execute_function = execute_function_for_mapping
    lambda_svc._execute_function_provided = execute_bootstrap_with_log
    lambda_svc.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": KeepsOutput})
    eventbridge._describe_event_bus = describe_event_bus_by_name_or_arn
    eventbridge._delete_event_bus = delete_event_bus_without_rules
    eventbridge._put_events = put_events_strictly
    eventbridge._now_ts = time_of_entry
    guard("secretsmanager", secretsmanager)
    guard("sqs", sqs)
    guard("events", eventbridge)

    from ministack.app import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
