-- The database that `make bench` measures with: a product that organisations use together, as there are many. Everybody
-- in it is made up. Keys and indexes stand in keys.sql, since rows load faster without them.

CREATE TYPE member_role AS ENUM ('owner', 'admin', 'member', 'guest');
CREATE TYPE order_status AS ENUM ('open', 'paid', 'shipped', 'returned');

CREATE TABLE users (
    id            uuid NOT NULL,
    email         text NOT NULL,
    username      text NOT NULL,
    full_name     text NOT NULL,
    phone         text,
    birthday      date,
    password_hash text NOT NULL,
    reset_token   text,
    settings      jsonb NOT NULL DEFAULT '{}',
    last_ip       inet,
    locale        text NOT NULL,
    timezone      text NOT NULL,
    bio           text,
    invited_by    uuid,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL
);

CREATE TABLE organisations (
    id            bigserial,
    slug          text NOT NULL,
    name          text NOT NULL,
    plan          text NOT NULL,
    settings      jsonb NOT NULL,
    created_by    uuid,
    created_at    timestamptz NOT NULL
);

CREATE TABLE memberships (
    org_id        bigint NOT NULL,
    user_id       uuid NOT NULL,
    role          member_role NOT NULL,
    added_by      uuid,
    joined_at     timestamptz NOT NULL
);

CREATE TABLE projects (
    id            bigserial,
    org_id        bigint NOT NULL,
    owner_id      uuid,
    name          text NOT NULL,
    description   text,
    settings      jsonb NOT NULL,
    archived      boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL
);

CREATE TABLE documents (
    id            bigserial,
    project_id    bigint NOT NULL,
    author_id     uuid NOT NULL,
    title         text NOT NULL,
    body          text NOT NULL,
    tags          text[] NOT NULL,
    word_count    integer NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL
);

CREATE TABLE comments (
    id            bigserial,
    document_id   bigint NOT NULL,
    author_id     uuid NOT NULL,
    parent_id     bigint,
    body          text NOT NULL,
    created_at    timestamptz NOT NULL
);

CREATE TABLE messages (
    id            bigserial,
    sender_id     uuid NOT NULL,
    recipient_id  uuid,
    body          text NOT NULL,
    sent_at       timestamptz NOT NULL,
    read_at       timestamptz
);

CREATE TABLE likes (
    id            bigserial,
    user_id       uuid NOT NULL,
    document_id   bigint NOT NULL,
    created_at    timestamptz NOT NULL
);

CREATE TABLE follows (
    follower_id   uuid NOT NULL,
    followed_id   uuid NOT NULL,
    created_at    timestamptz NOT NULL
);

CREATE TABLE sessions (
    id            uuid NOT NULL,
    user_id       uuid NOT NULL,
    token_hash    text NOT NULL,
    ip            inet NOT NULL,
    user_agent    text NOT NULL,
    created_at    timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL
);

CREATE TABLE events (
    id            bigserial,
    at            timestamptz NOT NULL,
    user_id       uuid,
    session_id    uuid,
    name          text NOT NULL,
    props         jsonb NOT NULL
);

CREATE TABLE notifications (
    id            uuid NOT NULL,
    user_id       uuid NOT NULL,
    kind          text NOT NULL,
    payload       jsonb NOT NULL,
    seen          boolean NOT NULL,
    created_at    timestamptz NOT NULL
);

-- Whoever pays. Kept apart from the account: the account may go, the books may not.
CREATE TABLE customers (
    id            bigserial,
    user_id       uuid,
    name          text NOT NULL,
    billing_email text NOT NULL,
    address       text,
    vat_number    text,
    created_at    timestamptz NOT NULL
);

CREATE TABLE orders (
    id            bigserial,
    customer_id   bigint NOT NULL,
    number        text NOT NULL,
    status        order_status NOT NULL,
    currency      char(3) NOT NULL,
    total         numeric(12,2) NOT NULL,
    items         jsonb NOT NULL,
    ship_to       text,
    note          text,
    placed_at     timestamptz NOT NULL
);

CREATE TABLE payments (
    id            bigserial,
    order_id      bigint NOT NULL,
    customer_id   bigint NOT NULL,
    amount        numeric(12,2) NOT NULL,
    card_holder   text,
    iban          text,
    provider_ref  text NOT NULL,
    paid_at       timestamptz NOT NULL
);

-- Written by jobs; it outlives what it tells of, so it has no foreign keys.
CREATE TABLE audit_log (
    id            bigserial,
    at            timestamptz NOT NULL,
    actor         uuid,
    action        text NOT NULL,
    args          jsonb NOT NULL
);
