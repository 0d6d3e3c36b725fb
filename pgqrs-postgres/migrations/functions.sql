-- The functions of the schema, as this version has them: put in place by every installation that
-- finds them missing or different. Whoever changes one adds a migration, if only an empty one, so
-- that an older program, which would put its own back, says that the schema is newer.

-- Adds a message, for psql, triggers and programs in any language; the answer is its id. It writes
-- what the statement `enqueue` of the Rust code writes, after the same checks. Nobody is notified:
-- run loops find the message by polling, once the transaction has committed.
CREATE OR REPLACE FUNCTION {schema}.enqueue(
    queue        text,
    payload      text,
    headers      text     DEFAULT NULL,
    priority     integer  DEFAULT 4,
    delay        interval DEFAULT '0',
    max_attempts integer  DEFAULT NULL -- the queue's
) RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = {schema}, pg_temp AS $function$
DECLARE
    began CONSTANT timestamptz := statement_timestamp();
    due   CONSTANT timestamptz := began + delay;
    message_id   bigint;
    target       queues;
    size_limit   bigint;
    part         text;
    content      text;
BEGIN
    IF enqueue.queue IS NULL OR enqueue.payload IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'queue and payload must not be NULL',
            HINT = 'The payload that is JSON''s null is ''null''.';
    END IF;
    IF enqueue.priority NOT BETWEEN 0 AND 9 OR enqueue.priority IS NULL THEN
        RAISE numeric_value_out_of_range USING
            MESSAGE = format('priority %s is out of range: allowed are 0 to 9',
                             coalesce(enqueue.priority::text, 'NULL')),
            HINT = 'Higher comes first; leave it out for 4.';
    END IF;
    IF due NOT BETWEEN began AND began + interval '3650 days' OR due IS NULL THEN
        RAISE numeric_value_out_of_range USING
            MESSAGE = format('delay %s is out of range: allowed are 0 to 10 years',
                             coalesce(enqueue.delay::text, 'NULL')),
            HINT = 'Give an interval, such as delay => ''30 seconds'', or leave it out.';
    END IF;
    IF enqueue.max_attempts NOT BETWEEN 1 AND 32767 THEN
        RAISE numeric_value_out_of_range USING
            MESSAGE = format('max_attempts %s is out of range: allowed are 1 to 32767',
                             enqueue.max_attempts),
            HINT = 'Leave it out for the setting of the queue.';
    END IF;

    SELECT payload_limit INTO size_limit FROM settings;
    FOREACH part IN ARRAY ARRAY['payload', 'headers'] LOOP
        content := CASE part WHEN 'payload' THEN enqueue.payload ELSE enqueue.headers END;
        IF octet_length(content) > size_limit THEN
            RAISE program_limit_exceeded USING
                MESSAGE = format('%s has %s bytes of JSON; this store allows %s',
                                 part, octet_length(content), size_limit),
                HINT = 'Keep large data elsewhere and enqueue where it is, or raise the limit with '
                       'pgqrs::admin(&store).payload_limit(bytes).';
        END IF;
        BEGIN
            IF part = 'headers' AND json_typeof(content::json) <> 'object' THEN
                RAISE invalid_parameter_value USING
                    MESSAGE = format('headers are a JSON %s, not an object',
                                     json_typeof(content::json)),
                    HINT = 'Give them as ''{"name": "value"}''.';
            ELSE
                PERFORM content::json;
            END IF;
        EXCEPTION WHEN invalid_text_representation THEN
            RAISE invalid_text_representation USING
                MESSAGE = format('%s is not JSON: %s', part, sqlerrm),
                HINT = 'A string is JSON in double quotes; to_json(value)::text quotes any value.';
        END;
    END LOOP;

    SELECT * INTO target FROM queues WHERE name = enqueue.queue FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE undefined_object USING
            MESSAGE = format('queue "%s" does not exist', enqueue.queue),
            HINT = format('Create it with pgqrs::admin(&store).create_queue("%s").', enqueue.queue);
    END IF;

    message_id := nextval('sequence');
    target.max_attempts := coalesce(enqueue.max_attempts, target.max_attempts);
    INSERT INTO messages (id, queue_id, priority, max_attempts, enqueued_at, payload, headers)
    VALUES (message_id, target.id, enqueue.priority, target.max_attempts, began, enqueue.payload,
            enqueue.headers);
    IF due = began THEN
        INSERT INTO ready (ids, queue_id, pos, visible_at, rank, attempts, max_attempts)
        VALUES (ARRAY[message_id], target.id, message_id, began, 9 - enqueue.priority, 0,
                target.max_attempts);
    ELSE
        INSERT INTO delayed (ids, queue_id, pos, visible_at, rank, attempts, max_attempts)
        VALUES (ARRAY[message_id], target.id, message_id, due, 9 - enqueue.priority, 0,
                target.max_attempts);
    END IF;
    RETURN message_id;
END
$function$;

-- The same for a payload of type json.
CREATE OR REPLACE FUNCTION {schema}.enqueue(
    queue        text,
    payload      json,
    headers      json     DEFAULT NULL,
    priority     integer  DEFAULT 4,
    delay        interval DEFAULT '0',
    max_attempts integer  DEFAULT NULL
) RETURNS bigint LANGUAGE sql VOLATILE SET search_path = {schema}, pg_temp AS $function$
    SELECT enqueue(queue, payload::text, headers::text, priority, delay, max_attempts)
$function$;
