/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The TLS ClientHello (RFC 8446 4.1.2): one record that is one hello, all of it in the scratch memory. That is what
 * nearly all clients send. Everything else, and whatever is not in plain form, is left to datapath/protocols in user
 * space, which knows what servers make of it. Whatever is read here, client_hello.py reads alike; a test compares.
 */
#ifndef PODLANE_TLS_H
#define PODLANE_TLS_H

#include "names.h"

#define RECORD_HEADER 5
#define MESSAGE 9 /* behind the record's and the message's header */
#define FIXED (MESSAGE + 34) /* version and random */
#define MOST_EXTENSIONS 64
#define MOST_OFFERS 16
#define MOST_OFFER_BYTES 255

/* Where the names are; 0 for none. */
struct found_names {
	__u32 name, name_length;
	__u32 offers, offers_end;
	__u32 service_port; /* the name is the host of a service (services.h) */
};

static long extension(__u32 i, struct round *round)
{
	struct scratch *scratch = round->scratch;
	struct extensions *all = &scratch->extensions;
	__u32 at = all->at, kind, size;

	if (at + 4 > all->end) {
		all->whole = at == all->end;
		return 1;
	}
	kind = two_bytes(scratch, at);
	size = two_bytes(scratch, at + 2);
	if (at + 4 + size > all->end) {
		all->bad = 1;
		return 1;
	}
	if (kind == 0) { /* server_name (RFC 6066 3): a list with one host_name */
		if (all->name || size < 6 || two_bytes(scratch, at + 4) != size - 2 || BYTE(scratch, at + 6) ||
		    two_bytes(scratch, at + 7) != size - 5) {
			all->bad = 1;
			return 1;
		}
		all->name = at + 9;
		all->name_length = size - 5;
	} else if (kind == 16) { /* ALPN (RFC 7301 3.1) */
		if (all->offers || size < 4 || two_bytes(scratch, at + 4) != size - 2) {
			all->bad = 1;
			return 1;
		}
		all->offers = at + 6;
		all->offers_end = at + 4 + size;
	}
	all->at = at + 4 + size;
	return 0;
}

/* Returns 1 if the scratch memory begins with a hello in plain form. */
__noinline int read_hello(__u32 length, struct found_names *found)
{
	struct round round = { scratch_memory() };
	struct scratch *scratch = round.scratch;
	__u32 record, at, end, size;
	struct extensions *all;

	if (!scratch || !found || length < FIXED + 1)
		return 0;
	record = two_bytes(scratch, 3);
	if (BYTE(scratch, 0) != 0x16 || BYTE(scratch, 1) != 3 || BYTE(scratch, RECORD_HEADER) != 1)
		return 0;
	end = RECORD_HEADER + record;
	if (BYTE(scratch, 6) || two_bytes(scratch, 7) + 4 != record || end > length || end < FIXED + 1)
		return 0;
	size = BYTE(scratch, FIXED); /* the session's id */
	if (size > 32)
		return 0;
	at = FIXED + 1 + size;
	if (at + 2 > end)
		return 0;
	size = two_bytes(scratch, at); /* cipher suites */
	if (!size || size % 2)
		return 0;
	at += 2 + size;
	if (at >= end)
		return 0;
	size = BYTE(scratch, at); /* compression methods */
	if (!size)
		return 0;
	at += 1 + size;
	if (at == end) /* no extensions */
		return 1;
	if (at + 2 > end || at + 2 + two_bytes(scratch, at) != end)
		return 0;
	all = &scratch->extensions;
	__builtin_memset(all, 0, sizeof(*all));
	all->at = at + 2;
	all->end = end;
	bpf_loop(MOST_EXTENSIONS + 1, extension, &round, 0);
	if (all->bad || !all->whole)
		return 0;
	found->name = all->name;
	found->name_length = all->name_length;
	found->offers = all->offers;
	found->offers_end = all->offers_end;
	return 1;
}

static long offer_byte(__u32 i, struct round *round)
{
	struct hashing *name = &round->scratch->hashing;

	if (i >= name->length)
		return 1;
	take(name, BYTE(round->scratch, name->at + i));
	return 0;
}

static long offer(__u32 i, struct round *round)
{
	struct scratch *scratch = round->scratch;
	struct settings *settings = settings_in_force();
	struct offers *offers = &scratch->offers;
	__u32 at = offers->at, length, *vector;
	__u64 key;

	if (at >= offers->end) {
		offers->whole = 1;
		return 1;
	}
	length = BYTE(scratch, at);
	if (!settings || !length || at + 1 + length > offers->end) {
		offers->bad = 1;
		return 1;
	}
	begin_hash(scratch, settings, at + 1, length);
	/* The length is part of what is hashed: without it, a zero byte in front would change nothing. */
	take(&scratch->hashing, length);
	bpf_loop(MOST_OFFER_BYTES, offer_byte, round, 0);
	key = scratch->hashing.first << 31 | scratch->hashing.second;
	vector = bpf_map_lookup_elem(&alpn_protocols, &key);
	if (vector)
		add_alpn(scratch, *vector);
	offers->at = at + 1 + length;
	return 0;
}

/* Unite what the offers satisfy. Returns 0 if the list is malformed or long. */
__noinline int unite_offers(__u32 at, __u32 end)
{
	struct round round = { scratch_memory() };
	struct offers *offers;

	if (!round.scratch || !begin_alpn(round.scratch, NO_ALPN))
		return 0;
	offers = &round.scratch->offers;
	offers->at = at;
	offers->end = end;
	offers->bad = offers->whole = 0;
	bpf_loop(MOST_OFFERS + 1, offer, &round, 0);
	return !offers->bad && offers->whole;
}

#endif
