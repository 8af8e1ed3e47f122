from pathlib import Path

from agentcy_ray.connectors.csv import CsvConnector
from tests.conformance.connector_suite import ConnectorCase, Prepared

TABLE = """id,name,age,joined,email,site,active,company,company_id
7,Ada Lovelace,36,1833-06-05,ada@example.org,https://example.org/ada,true,Engines,e1
8,Grace Hopper,85,1943-12-01,grace@example.org,https://example.org/grace,false,Navy,n1
9,"Joan ""J."" Clarke",79,1940-06-17,joan@example.org,https://example.org/joan,false,Engines,e1
"""


def prepare(folder: Path) -> Prepared:
    (folder / "people.csv").write_text(TABLE)
    config = {
        "file_path": str(folder / "people.csv"),
        "node_label": "Person",
        "id_column": "id",
        "relationship_columns": [
            {
                "column": "company",
                "external_id": "company_id",
                "type": "WORKS_AT",
                "label": "Company",
            }
        ],
    }
    return Prepared(config, file_roots=(folder,))


CASES = [ConnectorCase("csv", CsvConnector, prepare, effects={})]
