/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policy, as datapath/ebpf/policy_maps.py compiles it.
 *
 * The matches of the policy are numbered in order of precedence. For each criterion a map gives a vector: bit N is set
 * when what was found satisfies that criterion of match N. The vectors are intersected, and the first bit that is left
 * is the match that decides. So the time does not grow with the number of matches or names. Behind the policy's matches
 * stands one that everything satisfies, the default class's, so that seldom more than the first word is looked at.
 */
#ifndef PODLANE_POLICY_H
#define PODLANE_POLICY_H

#include "scratch.h"

/* Vectors that every policy has. */
enum {
	ANY_CONTENT, /* all matches: content could still satisfy them */
	NO_CONTENT, /* those that ask for none; also what an HTTP request without a known name satisfies */
	NO_NAME, /* those that ask for no name: a ClientHello without a known one */
	NO_ALPN, /* those that ask for no ALPN protocol */
	UNKNOWN_SERVICE, /* with READS_SERVICES: as NO_NAME, for the port in the name as well */
};

/* How much of the ring (beginnings.h) is taken. */
struct waiting {
	__u64 since; /* where in the ring its first record is of those that may wait */
	__u64 bytes;
};

/* What the policy has; flags of its settings. */
#define BLOCKS_QUIC 1 /* where a name in it could decide */
#define TELLS_DESTINATIONS 2 /* networks, so that they are to be looked up */
#define TELLS_SOURCES 4
/* The programs are at the node's end of a Pod's link, not inside the Pod's network namespace. */
#define AT_NODE 8
#define HEARS_QUIC 16 /* names decide in QUIC that clients open */
#define READS_SERVICES 32 /* server names may be Istio's of services (services.h) */

struct settings {
	__u32 generation; /* another one for each policy: flows of an earlier one are looked at again */
	__u32 key_1, key_2; /* of the hashes of names, drawn at random */
	__u32 link_header; /* bytes before the network header, on this interface */
	__u32 lane; /* whose programs these are, among those that share a ring */
	__u32 flags;
	__u64 class_ids[4]; /* a bit for each class id that exists */
	__u64 received_ids[4]; /* and for each that limits what arrives, where programs tell the class of that */
	__s32 sockets; /* the number of the network namespace that has the sockets; negative: that of the interface */
	__u32 proxy_port; /* where nat leads what clients open, to a mesh's proxy, whose sockets have this port; 0: nowhere */
	struct waiting shown; /* written by the programs */
};

struct match {
	__u8 class_id;
	__u8 needs_content;
};

struct network_key {
	__u32 length; /* in bits, of all that follows */
	__u32 inbound; /* for connections that clients open */
	__u32 address[4]; /* IPv4 as ::ffff:a.b.c.d */
};

struct port_key {
	__u32 length; /* in bits */
	__u8 kind; /* KIND_* */
	__u8 zero;
	__u16 port; /* big endian */
};

struct name_vectors {
	__u32 sni, host;
	__u32 service; /* as the host in a name of a service */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct vector);
} vectors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct match);
} matches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct port_key);
	__type(value, __u32);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network_key);
	__type(value, __u32);
} destinations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network_key);
	__type(value, __u32);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct name_vectors);
} names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} alpn_protocols SEC(".maps");

static __always_inline struct settings *settings_in_force(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline void packet_criteria(const struct packet *packet, struct criteria *found)
{
	struct port_key port = { 32, packet->kind, 0, packet->destination_port };
	struct network_key network = { 160, packet->kind == KIND_INBOUND || packet->kind == KIND_INBOUND_UDP };
	struct settings *settings = settings_in_force();
	__u32 flags = settings ? settings->flags : 0;
	__u32 *vector;

	vector = bpf_map_lookup_elem(&ports, &port);
	found->port = vector ? *vector : NO_CONTENT;
	/* Without networks every address is as good as any. */
	found->destination = found->source = ANY_CONTENT;
	if (flags & TELLS_DESTINATIONS) {
		__builtin_memcpy(network.address, packet->destination, 16);
		vector = bpf_map_lookup_elem(&destinations, &network);
		found->destination = vector ? *vector : NO_CONTENT;
	}
	if (flags & TELLS_SOURCES) {
		__builtin_memcpy(network.address, packet->source, 16);
		vector = bpf_map_lookup_elem(&sources, &network);
		found->source = vector ? *vector : NO_CONTENT;
	}
}

/* The number of the lowest bit. (__builtin_ctzll crashes clang 14.) */
static __noinline __u32 lowest_bit(__u64 word)
{
	__u32 number = 0;

	if (!(__u32)word) {
		number = 32;
		word >>= 32;
	}
	if (!(word & 0xffff)) {
		number += 16;
		word >>= 16;
	}
	if (!(word & 0xff)) {
		number += 8;
		word >>= 8;
	}
	if (!(word & 15)) {
		number += 4;
		word >>= 4;
	}
	if (!(word & 3)) {
		number += 2;
		word >>= 2;
	}
	return number + !(word & 1);
}

/* Begin the union of ALPN offers: what a client without a known offer satisfies. */
static __always_inline int begin_alpn(struct scratch *scratch, __u32 number)
{
	struct vector *vector = bpf_map_lookup_elem(&vectors, &number);

	if (!vector)
		return 0;
	scratch->alpn = *vector;
	return 1;
}

static __always_inline void add_alpn(struct scratch *scratch, __u32 number)
{
	struct vector *vector = bpf_map_lookup_elem(&vectors, &number);

	if (!vector)
		return;
#pragma clang loop unroll(full)
	for (int i = 0; i < WORDS; i++)
		scratch->alpn.words[i] |= vector->words[i];
}

/* The class of the first match that all criteria hold for. ALPN counts if asked for: the union of begin_alpn() and
 * add_alpn(). Returns the class id, CONTENT_DECIDES if that match needs content, and the number of the match. */
#define CONTENT_DECIDES 0x100
#define MATCH_SHIFT 20
#define NO_MATCH (WORDS * 64)
#define MATCH_BITS (~0U << MATCH_SHIFT)
#define BY_NO_MATCH (DEFAULT_CLASS | NO_MATCH << MATCH_SHIFT)

__noinline __u32 first_match(struct criteria *found, __u32 content, __u32 with_alpn)
{
	struct vector *port, *destination, *source, *by_content;
	struct scratch *scratch = scratch_memory();
	struct criteria own;
	__u32 number = 0;
	struct match *match;

	if (!found || !scratch)
		return BY_NO_MATCH;
	own = *found; /* Linux 6.1 wants keys on this function's stack */
	port = bpf_map_lookup_elem(&vectors, &own.port);
	destination = bpf_map_lookup_elem(&vectors, &own.destination);
	source = bpf_map_lookup_elem(&vectors, &own.source);
	by_content = bpf_map_lookup_elem(&vectors, &content);
	if (!port || !destination || !source || !by_content)
		return BY_NO_MATCH;
#pragma clang loop unroll(full)
	for (int i = 0; i < WORDS; i++) {
		__u64 word = port->words[i] & destination->words[i] & source->words[i] & by_content->words[i];

		if (with_alpn)
			word &= scratch->alpn.words[i];
		if (word) {
			number = i * 64 + lowest_bit(word);
			match = bpf_map_lookup_elem(&matches, &number);
			if (!match)
				return BY_NO_MATCH;
			return match->class_id | (match->needs_content ? CONTENT_DECIDES : 0) | number << MATCH_SHIFT;
		}
	}
	return BY_NO_MATCH;
}

#endif
