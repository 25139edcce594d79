/** Which language pages speak. English is always there; others are loaded when they are chosen. */
import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useState } from 'react';
import { en, type Texts } from './en';

export type Language = 'en' | 'ja';
export const LANGUAGES: Record<Language, string> = { en: 'English', ja: '日本語' };
const KEPT = 'podlane-language';

interface Spoken {
  t: Texts;
  language: Language;
  speak: (language: Language) => void;
}

const Context = createContext<Spoken>({ t: en, language: 'en', speak: () => {} });

function wished(): Language {
  const kept = localStorage.getItem(KEPT);
  if (kept === 'en' || kept === 'ja') return kept;
  return navigator.language.startsWith('ja') ? 'ja' : 'en';
}

export function LanguageProvider({ children }: { children: ReactNode }) {
  const [spoken, setSpoken] = useState<{ t: Texts; language: Language }>({ t: en, language: 'en' });
  const load = useCallback(async (language: Language) => {
    const t = language === 'ja' ? (await import('./ja')).ja : en;
    document.documentElement.lang = language;
    setSpoken({ t, language });
  }, []);
  useEffect(() => {
    if (wished() !== 'en') void load(wished());
  }, [load]);
  const speak = useCallback(
    (language: Language) => {
      localStorage.setItem(KEPT, language);
      void load(language);
    },
    [load],
  );
  const value = useMemo(() => ({ ...spoken, speak }), [spoken, speak]);
  return <Context value={value}>{children}</Context>;
}

export const useLanguage = () => useContext(Context);
export const useTexts = () => useContext(Context).t;
