/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Istio's names of services, which stand in the place of a server name between two of its proxies, read as
 * datapath/routing/service_names.py does: outbound_.PORT_.SUBSET_.HOST. Matches are asked for the host, and those that
 * name a port for that of the service, or of the connection.
 */
#ifndef PODLANE_SERVICES_H
#define PODLANE_SERVICES_H

#include "tls.h"

#define OUTBOUND 0x646e756f6274756fULL /* "outbound" (little endian, as all that is built) */
#define LOWER 0x2020202020202020ULL
#define BEFORE_PORT 10
#define PORT_DIGITS 5

/* Where the host of a service begins that is named at this place of the scratch memory, and the service's port; 0 if it is
 * another name. */
static __always_inline __u32 host_of_service(struct scratch *scratch, __u32 at, __u32 end, __u32 *port)
{
	__u32 subset, number = 0, skipped;

	if ((WORD_AT(scratch, at) | LOWER) != OUTBOUND || BYTE(scratch, at + 8) != '_' || BYTE(scratch, at + 9) != '.' ||
	    BYTE(scratch, at + BEFORE_PORT) == '0')
		return 0;
	at += BEFORE_PORT;
#pragma clang loop unroll(full)
	for (int i = 0; i < PORT_DIGITS; i++) {
		__u8 digit = BYTE(scratch, at) - '0';

		if (digit > 9)
			break;
		number = number * 10 + digit;
		at++;
	}
	if (!number || number > 0xffff || BYTE(scratch, at) != '_' || BYTE(scratch, at + 1) != '.')
		return 0;
	*port = number;
	at += 2;
	subset = at;
#pragma clang loop unroll(full)
	for (int i = 0; i <= MOST_LABEL / 8; i++) {
		skipped = bytes_before(ZERO_IN(WORD_AT(scratch, at) ^ LOW_BITS * '.'));
		at += skipped;
		if (skipped < 8)
			break;
	}
	if (at == subset || at + 1 >= end || BYTE(scratch, at) != '.' || BYTE(scratch, at - 1) != '_')
		return 0;
	return at + 1;
}

/* Leave of the united ALPN offers what the port in a name satisfies, too. */
static __always_inline int narrow_by_port(struct scratch *scratch, __u16 port)
{
	struct port_key named = { 32, KIND_SERVICE, 0, bpf_htons(port) };
	struct vector *by_port;
	__u32 number, *found;

	found = bpf_map_lookup_elem(&ports, &named);
	if (!found) /* no match names a port */
		return 1;
	number = *found; /* Linux 6.1 wants keys on this function's stack */
	by_port = bpf_map_lookup_elem(&vectors, &number);
	if (!by_port)
		return 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < WORDS; i++)
		scratch->alpn.words[i] &= by_port->words[i];
	return 1;
}

/* If the server name is that of a service, go on with its host, and with what this and the port satisfy. Returns 0 if it is
 * no name in plain form. */
__noinline int look_up_service(struct found_names *found, struct name_vectors *satisfied)
{
	struct scratch *scratch = scratch_memory();
	__u32 host, end, port = 0;

	if (!scratch || !found || !satisfied)
		return 0;
	end = found->name + found->name_length;
	if (BYTE(scratch, end - 1) == '.') /* the root */
		end--;
	host = host_of_service(scratch, found->name, end, &port);
	if (!host)
		return 1;
	found->name = host;
	found->name_length = end - host;
	found->service_port = port;
	if (!look_up_name(host, end - host, satisfied))
		return 0;
	satisfied->sni = satisfied->service;
	return narrow_by_port(scratch, port);
}

#endif
