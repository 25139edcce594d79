/*
 * podlane-cni: a chained CNI plugin that has the node's agent put lanes in force before a Pod's first packet.
 *
 * Container runtimes start it for each Pod, on nodes where there may be no Python: hence a program without libraries.
 * It asks the agent over a Unix socket, and waits for the answer. Which Pods have lanes, and whether these are in force,
 * only the agent knows. What becomes of a Pod without the agent's yes is in the configuration (node_agent/cni/conflist.py):
 *
 *   {"type": "podlane-cni", "socket": "/run/podlane/agent/cni.sock", "timeout": 10,
 *    "onFailure": "closed", "exempt": ["kube-system"]}
 *
 * https://www.cni.dev/docs/spec/ is what it keeps to. Build: gcc -static -Os -s -o podlane-cni podlane-cni.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define MOST_INPUT (1 << 20) /* bytes of a configuration, with the result of the plugins before this one */
#define MOST_ANSWER (1 << 16)
#define LONGEST_WORD 256
#define NEWEST "1.1.0"

/* Codes of errors, of the specification's section "Error". */
enum { VERSION_NOT_KNOWN = 1, BAD_ENVIRONMENT = 4, BAD_INPUT = 5, BAD_JSON = 6, BAD_CONFIG = 7, TRY_LATER = 11 };

static const char *const versions[] = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", NEWEST};
static char version[LONGEST_WORD] = NEWEST; /* of the configuration */

/* ---- JSON: where the values of one object are. The runtime has parsed it, so nesting is counted, not checked. ---- */

struct span {
	const char *at;
	size_t size;
};

static const char *skip_space(const char *p)
{
	return p + strspn(p, " \t\r\n");
}

/* What follows the string that begins at p, or NULL. */
static const char *skip_string(const char *p)
{
	for (p++; *p && *p != '"'; p++)
		if (*p == '\\' && !*++p)
			return NULL;
	return *p ? p + 1 : NULL;
}

/* What follows the value that begins at p, or NULL. */
static const char *skip_value(const char *p)
{
	int depth = 0;

	do {
		p = skip_space(p);
		if (*p == '"') {
			p = skip_string(p);
			if (!p)
				return NULL;
		} else if (*p == '{' || *p == '[') {
			depth++, p++;
		} else if (depth && (*p == '}' || *p == ']')) {
			depth--, p++;
		} else if (depth && (*p == ',' || *p == ':')) {
			p++;
		} else {
			size_t size = strcspn(p, " \t\r\n,:{}[]\"");

			if (!size)
				return NULL;
			p += size;
		}
	} while (depth);
	return p;
}

/* The member of an object with this name, or an empty span. Returns -1 if the text is no object. */
static int member(const char *p, const char *name, struct span *found)
{
	size_t size = strlen(name);

	*found = (struct span){NULL, 0};
	p = skip_space(p);
	if (*p++ != '{')
		return -1;
	p = skip_space(p);
	while (*p != '}') {
		const char *key = p, *value;

		if (*p != '"' || !(p = skip_string(p)))
			return -1;
		int same = (size_t)(p - key) == size + 2 && !memcmp(key + 1, name, size);

		p = skip_space(p);
		if (*p++ != ':')
			return -1;
		value = skip_space(p);
		if (!(p = skip_value(value)))
			return -1;
		if (same)
			*found = (struct span){value, (size_t)(p - value)};
		p = skip_space(p);
		if (*p == ',')
			p = skip_space(p + 1);
		else if (*p != '}')
			return -1;
	}
	return *skip_space(p + 1) ? -1 : 0;
}

/* A member's text; it has no escapes, as the agent writes none. Returns -1 if it is no such text, or too long. */
static int word(const char *object, const char *name, char *to, size_t room)
{
	struct span found;

	if (member(object, name, &found) || !found.at)
		return -1;
	if (*found.at != '"' || found.size - 2 >= room || memchr(found.at, '\\', found.size))
		return -1;
	memcpy(to, found.at + 1, found.size - 2);
	to[found.size - 2] = 0;
	return 0;
}

/* ---- what a runtime is told ---- */

static int fail(int code, const char *said)
{
	printf("{\"cniVersion\": \"%s\", \"code\": %d, \"msg\": \"podlane-cni: %s\"}\n", version, code, said);
	return 1;
}

static int tell_versions(void)
{
	printf("{\"cniVersion\": \"%s\", \"supportedVersions\": [", version);
	for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
		printf("%s\"%s\"", i ? ", " : "", versions[i]);
	puts("]}");
	return 0;
}

/* ---- the agent ---- */

static void interrupt(int number)
{
	(void)number;
}

/* From now on every call that waits ends after so many seconds, with EINTR. 0: no more. */
static void limit_waiting(long seconds)
{
	struct sigaction action = {.sa_handler = interrupt};
	/* Again and again, since the first signal may come between two calls. */
	struct itimerval timer = {{0, seconds ? 50000 : 0}, {seconds, 0}};

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

static int send_all(int agent, const char *data, size_t size)
{
	while (size) {
		ssize_t sent = send(agent, data, size, MSG_NOSIGNAL);

		if (sent < 0)
			return -1;
		data += sent;
		size -= (size_t)sent;
	}
	return 0;
}

/* A variable of the environment with its value, and a zero byte. */
static int send_variable(int agent, const char *name, const char *value)
{
	char *pair;
	int size = asprintf(&pair, "%s=%s", name, value ? value : "");
	int failed = size < 0 || send_all(agent, pair, (size_t)size + 1);

	if (size >= 0)
		free(pair);
	return failed ? -1 : 0;
}

/* What the agent answers to this call, in `answer`: "ok", or an error for the runtime. Returns -1 if it does not. */
static int ask(const char *path, char *answer)
{
	static const char *const asked[] = {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"};
	struct sockaddr_un place = {.sun_family = AF_UNIX};
	size_t size = 0;
	ssize_t got;
	int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (agent < 0 || strlen(path) >= sizeof place.sun_path)
		return -1;
	strcpy(place.sun_path, path);
	if (connect(agent, (struct sockaddr *)&place, sizeof place))
		return -1;
	for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
		if (send_variable(agent, asked[i], getenv(asked[i])))
			return -1;
	if (send_variable(agent, "cniVersion", version) || shutdown(agent, SHUT_WR))
		return -1;
	while ((got = recv(agent, answer + size, MOST_ANSWER - 1 - size, 0)) > 0)
		size += (size_t)got;
	answer[size] = 0;
	if (!got && strncmp(answer, "ok", 2) && *answer != '{') {
		errno = ENODATA; /* it ended meanwhile, or has too many calls */
		return -1;
	}
	return got < 0 ? -1 : 0;
}

/* Whether the namespace of the Pod is in a list of texts. */
static int is_exempt(const char *config)
{
	const char *arguments = getenv("CNI_ARGS"), *name = arguments;
	struct span list;
	char quoted[LONGEST_WORD];

	if (member(config, "exempt", &list) || !list.at || !arguments)
		return 0;
	while (strncmp(name, "K8S_POD_NAMESPACE=", 18)) {
		name = strchr(name, ';');
		if (!name++)
			return 0;
	}
	name += 18;
	size_t size = strcspn(name, ";");

	if (!size || size > sizeof quoted - 3 || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") < size)
		return 0;
	int length = snprintf(quoted, sizeof quoted, "\"%.*s\"", (int)size, name);

	return memmem(list.at, list.size, quoted, (size_t)length) != NULL;
}

/* ---- */

static int add_or_check(const char *config, int add)
{
	static const char *const needed[] = {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"};
	static char answer[MOST_ANSWER];
	char path[LONGEST_WORD], way[LONGEST_WORD];
	struct span result, timeout;

	for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
		if (!getenv(needed[i]) || !*getenv(needed[i]))
			return fail(BAD_ENVIRONMENT, "CNI_CONTAINERID, CNI_NETNS or CNI_IFNAME is missing");
	member(config, "prevResult", &result);
	if (!result.at)
		return fail(BAD_CONFIG, "there is no prevResult. It makes no network: put it behind a plugin that does");
	if (word(config, "socket", path, sizeof path) || word(config, "onFailure", way, sizeof way) ||
	    (strcmp(way, "open") && strcmp(way, "closed")))
		return fail(BAD_CONFIG, "socket is to be a path, and onFailure open or closed");
	member(config, "timeout", &timeout);
	long seconds = timeout.at ? strtol(timeout.at, NULL, 10) : 0;

	if (seconds < 1)
		return fail(BAD_CONFIG, "timeout is to be a number of seconds");
	limit_waiting(seconds);
	int away = ask(path, answer);
	int reason = errno;

	limit_waiting(0);
	if (away || *answer == '{') {
		if (!strcmp(way, "closed") && !is_exempt(config)) {
			if (away)
				return fail(TRY_LATER, "the node's podlane agent does not answer, and a Pod is to wait for it");
			fputs(answer, stdout);
			return 1;
		}
		fprintf(stderr, "podlane-cni: the Pod begins without its lanes. %s\n", away ? strerror(reason) : answer);
	}
	if (add)
		printf("%.*s\n", (int)result.size, result.at);
	return 0;
}

int main(void)
{
	static char config[MOST_INPUT];
	const char *command = getenv("CNI_COMMAND");
	size_t size = fread(config, 1, sizeof config, stdin);
	struct span any;

	if (ferror(stdin) || size == sizeof config)
		return fail(BAD_INPUT, "the configuration cannot be read, or is too long");
	config[size] = 0;
	if (!command)
		return fail(BAD_ENVIRONMENT, "CNI_COMMAND is missing. This is a plugin that container runtimes call");
	if (strlen(config) != size || member(config, "cniVersion", &any))
		return fail(BAD_JSON, "the configuration is no JSON object");
	int known = 0;

	if (!word(config, "cniVersion", version, sizeof version))
		for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
			known |= !strcmp(version, versions[i]);
	if (!known)
		strcpy(version, NEWEST);
	if (!strcmp(command, "VERSION"))
		return tell_versions();
	if (!known)
		return fail(VERSION_NOT_KNOWN, "cniVersion is not one of those that VERSION names");
	if (!strcmp(command, "ADD") || !strcmp(command, "CHECK"))
		return add_or_check(config, !strcmp(command, "ADD"));
	/*
	 * Lanes go with the network namespace, so there is nothing to delete. STATUS is well without an agent: if it
	 * were not, kubelets would start no Pod at all, the agent's own included.
	 */
	if (!strcmp(command, "DEL") || !strcmp(command, "GC") || !strcmp(command, "STATUS"))
		return 0;
	return fail(BAD_ENVIRONMENT, "CNI_COMMAND is not known");
}
