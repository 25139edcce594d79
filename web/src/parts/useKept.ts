import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { Problem } from '../../api/client';
import { useTenant } from '../../parts/hooks';

interface KeptProps<Found, Written> {
  /** What one has seen of it; undefined: it is to be new. */
  found: Found | undefined;
  write: (written: Written, header: VersionHeader) => Promise<unknown>;
  /** As it is now, if there is one. */
  read: () => Promise<Found>;
  done: () => void;
}

type VersionHeader = { 'if-match': string } | { 'if-none-match': string };

/** Saves something under the version that one has seen; `theirs` is what somebody else has written meanwhile. */
export function useKept<Found extends { version: number }, Written>({
  found,
  write,
  read,
  done,
}: KeptProps<Found, Written>) {
  const tenant = useTenant();
  const queries = useQueryClient();
  const [version, setVersion] = useState(found?.version);
  const [theirs, setTheirs] = useState<Found | undefined>();
  const save = useMutation({
    mutationFn: (written: Written) =>
      write(written, version === undefined ? { 'if-none-match': '*' } : { 'if-match': `"${version}"` }),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ['t', tenant, 'alerts'] });
      done();
    },
    onError: async (error) => {
      if (!(error instanceof Problem) || error.status !== 412) return;
      try {
        setTheirs(await read());
      } catch (gone) {
        // They have removed it: saving it again makes it anew.
        if (gone instanceof Problem && gone.status === 404) setVersion(undefined);
      }
    },
  });
  return {
    save,
    theirs,
    /** What one goes on from is theirs now, whichever was chosen. */
    goOn: () => {
      setVersion(theirs?.version);
      setTheirs(undefined);
      save.reset();
    },
    forget: () => setTheirs(undefined),
  };
}
